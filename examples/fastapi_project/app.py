"""Questions and their runs: endpoints, a handler, and a worker in the lifespan of the application."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from runstate.store import open_store
from runstate.worker import Context, Outcome, RetryPolicy, Worker

URL = os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///app.db")


class Base(DeclarativeBase):
    """The tables of the application."""


class Question(Base):
    """A question of a user, and the run that answers it."""

    __tablename__ = "questions"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    run_id: Mapped[str]
    answer: Mapped[str | None]


class Asked(BaseModel):
    """What a user sends."""

    text: str


class Told(BaseModel):
    """What a user gets."""

    id: int
    text: str
    status: str
    answer: str | None


async def ask_model(ctx: Context, text: str) -> str:
    """Stand for the call of a model."""
    ctx.add_usage(prompt_tokens=len(text), completion_tokens=12)
    return f"You asked: {text}"


async def answer(ctx: Context) -> Outcome:
    """Answer a question. The call of the model is a step, so that it is paid for once."""
    said = await ctx.step("answer", ask_model, ctx, ctx.run.instructions)
    ctx.emit({"text": said})
    return ctx.complete()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database and the store, and run a worker beside the endpoints."""
    engine = create_async_engine(URL)
    async with open_store(URL, migrate=False) as store:
        app.state.engine, app.state.store = engine, store
        async with Worker(store, answer, retry=RetryPolicy(), drain_s=5.0):
            yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/questions", status_code=201)
async def ask(asked: Asked, request: Request) -> Told:
    """Store a question and its run, in one transaction."""
    state = request.app.state
    async with AsyncSession(state.engine) as session, session.begin():
        async with state.store.aio.within(session) as runs:
            run = await runs.create(
                thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", instructions=asked.text
            )
        question = Question(text=asked.text, run_id=run.id, answer=None)
        session.add(question)
        if asked.text == "":
            raise HTTPException(422, "the question is empty")  # neither of them is stored
        await session.flush()
        return Told(id=question.id, text=question.text, status=run.status, answer=None)


@app.get("/questions/{number}")
async def tell(number: int, request: Request) -> Told:
    """Return a question with the status of its run, and the answer if there is one."""
    state = request.app.state
    async with AsyncSession(state.engine) as session:
        question = await session.scalar(sa.select(Question).where(Question.id == number))
    if question is None:
        raise HTTPException(404, "no such question")
    run = await state.store.aio.get(question.run_id)
    steps = await state.store.aio.steps(run.id)
    said: Any = steps[0].result if steps else None
    return Told(id=question.id, text=question.text, status=run.status, answer=said)
