"""A proxy before PostgreSQL that loses what a network can lose: connections, requests, and answers to what was done.

It reads the protocol just far enough to know what was asked, and whether it was committed. So the answer that is lost
can be the one to a write that has happened.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from threading import Event, Thread
from typing import Final, Literal, Self, TypeAlias, TypeVar
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

__all__ = ["Loss", "Proxy"]

T = TypeVar("T")

Loss: TypeAlias = Literal["answer", "request", "any answer", "any request", "connection"]
"""What may be lost:

- `answer`: the answer to a write that was committed
- `request`: a request that writes, which then never reaches the server
- `any answer`, `any request`: also where nothing is written, but not of a notifier's connection
- `connection`: a new connection, which is refused
"""

_WRITES: Final = (b"INSERT INTO runstate_", b"UPDATE runstate_", b"DELETE FROM runstate_")
_OF_NOTIFIERS: Final = (b"synchronous_commit", b"LISTEN", b"SELECT pg_current_snapshot()::text")
_UNDONE: Final = (b"", b"ERROR", b"ROLLBACK")
_CHUNK: Final = 65536
_LIMIT_S: Final = 60.0
_LOOK_S: Final = 0.01


class Messages:
    """Messages of one direction, cut out of the stream. A client's first one has no type."""

    def __init__(self, *, first_untyped: bool) -> None:
        self._untyped = first_untyped
        self._rest = b""

    def read(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the type and the body of each message that is complete now."""
        self._rest += chunk
        while len(self._rest) >= (head := 4 if self._untyped else 5):
            end = head - 4 + int(struct.unpack(">I", self._rest[head - 4 : head])[0])
            if len(self._rest) < end:
                return
            kind, body = b"" if self._untyped else self._rest[:1], self._rest[head:end]
            self._rest, self._untyped = self._rest[end:], False
            yield kind, body


class Proxy:
    """Listens on a port of its own, and hands on to the server of `url`. It has a thread, so that no test blocks it."""

    def __init__(self, url: str) -> None:
        self._server = conninfo_to_dict(url)
        self.lost: list[bytes] = []
        """What was asked, where it or its answer was lost."""
        self.loses: Callable[[Loss, bytes], bool] = lambda loss, asked: False
        """Whether to lose something of a kind, and what was asked; called whenever it could be lost."""
        self._pending: deque[Loss] = deque()
        self._flows = Event()
        self._flows.set()
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listening: Future[int] = Future()
        self._thread = Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the database, through here."""
        server = self._server
        person = quote(str(server.get("user", "postgres")))
        if "password" in server:
            person += f":{quote(str(server['password']), safe='')}"
        port = self._listening.result(_LIMIT_S)
        name = quote(str(server["dbname"]))
        return f"postgresql://{person}@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable"

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.result(_LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_LIMIT_S)
        self._loop.close()

    def turn_to(self, url: str) -> None:
        """Hand new connections on to another server, as an address does that has moved."""
        self._server = conninfo_to_dict(url)

    def freeze(self) -> None:
        """Let nothing through any more, and close nothing."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything through that came meanwhile."""
        self._flows.set()

    def cut(self, chance: Random | None = None, part: float = 1.0) -> int:
        """End all connections, or a part of them that chance chooses, but at least one; return how many."""

        def some() -> int:
            links = [*self._links]
            if chance is not None:
                links = chance.sample(links, min(len(links), max(1, round(part * len(links)))))
            for link in links:
                link.cut()
                self._links.discard(link)
            return len(links)

        return self._in_thread(some)

    def hold(self, loss: Loss, part: bytes) -> None:
        """Let nothing through from the first request that holds a text on, or from the answer to it."""

        def loses(which: Loss, asked: bytes) -> bool:
            if which == loss and part in asked and not held:
                held.append(asked)
                self.freeze()
            return False

        held: list[bytes] = []
        self.loses = loses

    def lose(self, loss: Loss, part: bytes, count: int = 1) -> None:
        """Lose so many requests that hold a text, or the answers to them."""
        left = [count]

        def loses(which: Loss, asked: bytes) -> bool:
            if which == loss and part in asked and left[0] > 0:
                left[0] -= 1
                return True
            return False

        self.loses = loses

    def lose_in_order(self, *losses: Loss) -> None:
        """Lose these, one after the other, each as soon as it can be; without any, lose nothing more."""
        pending = deque(losses)

        def loses(which: Loss, asked: bytes) -> bool:
            if not pending or pending[0] != which:
                return False
            pending.popleft()
            return True

        self._pending, self.loses = pending, loses

    @property
    def has_lost_all(self) -> bool:
        """Whether nothing is left of what is to be lost in order."""
        return not self._pending

    def _in_thread(self, what: Callable[[], T]) -> T:
        """Have something done in the proxy's own thread; return what it returns."""
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(what()))
        return done.result(_LIMIT_S)

    # --- in its own thread ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._listening.set_result(server.sockets[0].getsockname()[1])
        await self._over.wait()
        server.close()
        for link in [*self._links]:
            link.cut()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.decide("connection", b""):
            writer.transport.abort()
            return
        try:
            upstream, to_server = await self._connect()
        except OSError:
            writer.transport.abort()  # the server is away
            return
        link = Link(self, writer, to_server)
        self._links.add(link)
        pumps = (
            self._pump(reader, to_server, link.take_request),
            self._pump(upstream, writer, link.take_answer),
        )
        waiting = [asyncio.create_task(pump) for pump in pumps]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.cut()
            for task in waiting:
                task.cancel()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._server.get("host") or "localhost"), int(str(self._server.get("port") or 5432))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Callable[[bytes], bytes | None]
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._wait_for_the_flow()
                passed = take(chunk)
                if passed is None:
                    return
                await self._wait_for_the_flow()  # which what was just taken may have stopped
                writer.write(passed)
                await writer.drain()

    async def _wait_for_the_flow(self) -> None:
        while not self._flows.is_set():
            await asyncio.sleep(_LOOK_S)

    def decide(self, loss: Loss, asked: bytes) -> bool:
        """Return whether something is lost now, and note it."""
        if self.loses(loss, asked):
            self.lost.append(asked)
            return True
        return False


class Link:
    """One connection of a client, and ours to the server for it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = (client, server)
        self._requests = Messages(first_untyped=True)
        self._answers = Messages(first_untyped=False)
        self._prepared: dict[bytes, bytes] = {}
        self._asked = b""
        """What was asked since nothing was under way: a statement, or those of a transaction."""
        self._outcome = b""
        """The last that the server said of it: what was done, `ERROR`, or nothing yet."""
        self._unanswered = 0
        self._is_set_up = False
        self._is_of_notifier = False
        self._held = b""
        """An answer that the client gets when it is complete, or never."""

    def take_request(self, chunk: bytes) -> bytes | None:
        """Return what goes on to the server; None if the connection breaks before."""
        for kind, body in self._requests.read(chunk):
            text = b""
            if kind == b"Q":
                text = body
            elif kind == b"P":
                name, statement, *_ = body.split(b"\0", 2)
                self._prepared[name] = statement
            elif kind == b"B":
                text = self._prepared.get(body.split(b"\0", 2)[1], b"")
            if text:
                self._asked += text + b"\n"
                self._is_of_notifier = self._is_of_notifier or any(words in text for words in _OF_NOTIFIERS)
            if kind in (b"Q", b"S"):
                self._unanswered += 1
                if self._decide("request", "any request", self._writes):
                    return None
        return chunk

    def take_answer(self, chunk: bytes) -> bytes | None:
        """Return what goes on to the client; None if the connection breaks before."""
        self._held += chunk
        for kind, body in self._answers.read(chunk):
            if kind == b"C":
                self._outcome = body.rstrip(b"\0")
            elif kind == b"E":
                self._outcome = b"ERROR"
            elif kind == b"Z":
                self._unanswered = max(0, self._unanswered - 1)
                is_over = body == b"I"  # no transaction is open: all of it is committed, or nothing
                if self._decide("answer", "any answer", is_over and self._writes and self._outcome not in _UNDONE):
                    return None
                self._is_set_up = True
                if is_over:
                    self._asked = self._outcome = b""
        if self._unanswered:
            return b""  # until it is known how this answer ends
        passed, self._held = self._held, b""
        return passed

    @property
    def _writes(self) -> bool:
        return any(write in self._asked for write in _WRITES)

    def _decide(self, of_write: Loss, of_any: Loss, is_write: bool) -> bool:
        """Return whether a request or an answer is lost now."""
        may_be_any = self._is_set_up and not self._is_of_notifier
        return (is_write and self._proxy.decide(of_write, self._asked)) or (
            may_be_any and self._proxy.decide(of_any, self._asked)
        )

    def cut(self) -> None:
        """End both connections, at once and without a farewell."""
        for writer in self._writers:
            writer.transport.abort()
