"""A proxy before PostgreSQL that cuts connections, and loses answers to what was done.

It reads the protocol just far enough to know when a request has been answered, and whether it wrote: so the answer that
is lost is one to a write that has happened.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from threading import Thread
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar
from urllib.parse import quote

import attrs
from psycopg.conninfo import conninfo_to_dict

from torture.trials.ground import PATIENCE_S

T = TypeVar("T")

Loss: TypeAlias = Literal["done", "next", "unsent", "shut"]
"""`done`: the answer to the next write that is committed; `next`: the next answer of any kind; `unsent`: the next
request, which never reaches the server; `shut`: the next connection, which is refused."""

_OF_BELLS: Final = (b"synchronous_commit", b"LISTEN", b"SELECT pg_current_snapshot()::text")
_WRITES: Final = (b"INSERT INTO runstate_", b"UPDATE runstate_", b"DELETE FROM runstate_")
_CHUNK: Final = 65536


@attrs.define
class Frames:
    """Messages of one direction, cut out of the stream. A client's first one has no type."""

    untyped: bool
    _rest: bytes = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the type and body of each message that is complete now."""
        self._rest += chunk
        while len(self._rest) >= (head := 4 if self.untyped else 5):
            (length,) = struct.unpack(">I", self._rest[head - 4 : head])
            end = head - 4 + length
            if len(self._rest) < end:
                return
            kind = b"" if self.untyped else self._rest[:1]
            body, self._rest = self._rest[head:end], self._rest[end:]
            self.untyped = False
            yield kind, body

    @property
    def between(self) -> bool:
        """Whether no message is half read."""
        return not self._rest


@attrs.define(eq=False)
class Link:
    """A client's connection and ours to the server."""

    proxy: Proxy
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    requests: Frames = attrs.Factory(lambda: Frames(untyped=True))
    answers: Frames = attrs.Factory(lambda: Frames(untyped=False))
    texts: dict[bytes, bytes] = attrs.Factory(dict)
    """Prepared statements by name."""
    asked: bytes = b""
    """The text that was executed last."""
    executed: bool = False
    """Whether the answer under way says that something was executed, and did not fail."""
    answered: bool = False
    """Whether the last message read ended an answer."""
    began: bool = False
    """Whether the server said that it is ready for the first time."""
    held: bytes = b""
    """An answer of which it is not known yet whether the client gets it."""
    is_bell: bool = False

    async def forward(self, reader: asyncio.StreamReader, take: Callable[[bytes], bytes], to: str) -> None:
        """Hand on what comes from one side, as far as `take` lets it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await reader.read(_CHUNK):
                passed = take(chunk)
                if passed is _CUT:
                    break
                writer: asyncio.StreamWriter = getattr(self, to)
                writer.write(passed)
                await writer.drain()
        self.cut()

    def take_request(self, chunk: bytes) -> bytes:
        """Note what is asked; return what goes on to the server."""
        for kind, body in self.requests.feed(chunk):
            if kind == b"Q":
                self.asked = body
            elif kind == b"P":
                name, text, *_ = body.split(b"\0", 2)
                self.texts[name] = self.asked = text
            elif kind == b"B":
                self.asked = self.texts.get(body.split(b"\0", 2)[1], b"")
            self.is_bell = self.is_bell or any(word in self.asked for word in _OF_BELLS)
            if kind in (b"Q", b"S") and self.may_lose and self.proxy.loses("unsent"):
                return _CUT
        return chunk

    def take_answer(self, chunk: bytes) -> bytes:
        """Note what was answered; return what goes on to the client."""
        self.held += chunk
        for kind, body in self.answers.feed(chunk):
            self.answered = kind == b"Z"
            self.executed = self.executed or kind == b"C"
            if not self.answered:
                continue
            if self.may_lose and (self.proxy.loses("next") or (self._is_done(body) and self.proxy.loses("done"))):
                return _CUT
            self.executed, self.began = False, True
        if self.proxy.losses and self.may_lose and not (self.answered and self.answers.between):
            return b""  # the rest of it decides
        passed, self.held = self.held, b""
        return passed

    @property
    def may_lose(self) -> bool:
        """Whether an answer may be lost here: not while connecting, and not a bell's."""
        return self.began and not self.is_bell

    def _is_done(self, status: bytes) -> bool:
        """Tell whether something was written and committed."""
        writes = any(write in self.asked for write in _WRITES) or self.asked.startswith(b"COMMIT")
        return self.executed and writes and status == b"I"

    def cut(self) -> None:
        """End both connections, at once and without a farewell."""
        self.proxy.links.discard(self)
        for writer in (self.client, self.server):
            with suppress(Exception):
                writer.transport.abort()


_CUT: Final = b"cut"


class Proxy:
    """A way to a PostgreSQL that is not to be relied on."""

    def __init__(self, url: str) -> None:
        self._upstream: Final[dict[str, Any]] = conninfo_to_dict(url)
        self.links: set[Link] = set()
        self.losses: deque[Loss] = deque()
        """What is to be lost, one after the other."""
        self.lost = 0
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._go, name="proxy", daemon=True)
        self._listening: Future[int] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        port = self._listening.result(PATIENCE_S)
        name, user = quote(str(self._upstream["dbname"])), quote(str(self._upstream.get("user", "postgres")))
        self.url = f"postgresql://{user}@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable"
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(lambda: self._task.cancel())
        self._thread.join(PATIENCE_S)

    def cut(self, chance: Random, part: float) -> int:
        """Cut a part of the connections, at least one; return how many."""

        def some() -> int:
            chosen = chance.sample([*self.links], min(len(self.links), max(1, round(part * len(self.links)))))
            for link in chosen:
                link.cut()
            return len(chosen)

        return self._ask(some)

    def lose(self, *losses: Loss) -> None:
        """Lose so much from now on."""

        def arm() -> None:
            self.losses.clear()
            self.losses.extend(losses)

        self._ask(arm)

    def loses(self, loss: Loss) -> bool:
        """Tell whether this is what is to be lost now; then it is."""
        if not self.losses or self.losses[0] != loss:
            return False
        self.losses.popleft()
        self.lost += 1
        return True

    def _ask(self, what: Callable[[], T]) -> T:
        """Have something done in the proxy's own thread; return what it returns."""
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(what()))
        return done.result(PATIENCE_S)

    # --- in its own thread ----------------------------------------------------------------------------------------

    def _go(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._serve())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._listening.set_result(server.sockets[0].getsockname()[1])
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for link in [*self.links]:
                link.cut()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.loses("shut"):
            writer.transport.abort()
            return
        try:
            there, server = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, writer, server)
        self.links.add(link)
        with suppress(asyncio.CancelledError):  # the proxy closes
            await asyncio.gather(
                link.forward(reader, link.take_request, "server"), link.forward(there, link.take_answer, "client")
            )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._upstream.get("host", "127.0.0.1")), int(self._upstream.get("port", 5432))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)
