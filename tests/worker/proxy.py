"""A proxy before PostgreSQL that loses what the network can lose: requests, and answers to what was done.

It follows the protocol as far as to know what was asked, and whether it was committed: so the answer that is lost is
one to a write that has happened.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from tests.worker.support import LIMIT

Loss = Literal["answer", "request"]

_WRITES: Final = (b"INSERT INTO runstate_", b"UPDATE runstate_", b"DELETE FROM runstate_")


class Messages:
    """Messages of one direction, cut out of the stream; a client's first has no type."""

    def __init__(self, *, first_untyped: bool) -> None:
        self._untyped = first_untyped
        self._rest = b""

    def read(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._rest += chunk
        while len(self._rest) >= (head := 4 if self._untyped else 5):
            end = head - 4 + int(struct.unpack(">I", self._rest[head - 4 : head])[0])
            if len(self._rest) < end:
                return
            kind, body = b"" if self._untyped else self._rest[:1], self._rest[head:end]
            self._rest, self._untyped = self._rest[end:], False
            yield kind, body


class Proxy:
    """Listens on a port of its own, and hands on to the server of `url`; in a thread, so that nobody blocks it."""

    def __init__(self, url: str) -> None:
        self._given = conninfo_to_dict(url)
        self.lost: list[bytes] = []
        """What was asked, where it or its answer was lost."""
        self.loses: Callable[[Loss, bytes], bool] = lambda loss, asked: False
        """Whether to lose a request that writes, or the answer to a write that was committed; asked for each."""
        self._flows = threading.Event()
        self._flows.set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        """The URL of the database, through here."""
        given = self._given
        person = quote(str(given.get("user", "postgres")))
        if "password" in given:
            person += f":{quote(str(given['password']), safe='')}"
        return f"postgresql://{person}@127.0.0.1:{self._port}/{given['dbname']}?sslmode=disable&gssencmode=disable"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(LIMIT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(LIMIT)
        self._loop.close()

    def freeze(self) -> None:
        """Let nothing through any more, and close nothing."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything through that came meanwhile."""
        self._flows.set()

    def cut(self) -> None:
        """Close every connection."""

        def close() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(close)

    def hold(self, loss: Loss, part: bytes) -> None:
        """Let nothing through from the first request that holds a text on, or from the answer to it."""

        def loses(which: Loss, asked: bytes) -> bool:
            if which == loss and part in asked and not held:
                held.append(asked)
                self.freeze()
            return False

        held: list[bytes] = []
        self.loses = loses

    def turn_to(self, url: str) -> None:
        """Hand new connections on to another server, as an address does that has moved."""
        self._given = conninfo_to_dict(url)

    def lose(self, loss: Loss, part: bytes, count: int = 1) -> None:
        """Lose so many requests that hold a text, or the answers to them."""
        left = [count]

        def loses(which: Loss, asked: bytes) -> bool:
            if which == loss and part in asked and left[0] > 0:
                left[0] -= 1
                return True
            return False

        self.loses = loses

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._given.get("host") or "localhost"), int(str(self._given.get("port") or 5432))
        try:
            if host.startswith("/"):
                upstream, to_server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                upstream, to_server = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()  # the server is away
            return
        link = Link(self)
        both = {writer, to_server}
        self._writers |= both
        pumps = (
            self._pump(reader, to_server, link.take_request),
            self._pump(upstream, writer, link.take_answer),
        )
        waiting = [asyncio.create_task(pump) for pump in pumps]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writing in both:
                writing.transport.abort()
            for task in waiting:
                task.cancel()
            self._writers -= both

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Callable[[bytes], bytes | None]
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                while not self._flows.is_set():
                    await asyncio.sleep(0.01)
                passed = take(chunk)
                if passed is None:
                    return
                while not self._flows.is_set():  # by what was just taken
                    await asyncio.sleep(0.01)
                writer.write(passed)
                await writer.drain()

    def decide(self, loss: Loss, asked: bytes) -> bool:
        if any(write in asked for write in _WRITES) and self.loses(loss, asked):
            self.lost.append(asked)
            return True
        return False


class Link:
    """One connection, and what is under way on it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._requests = Messages(first_untyped=True)
        self._answers = Messages(first_untyped=False)
        self._prepared: dict[bytes, bytes] = {}
        self._asked = b""
        """What was asked since nothing was under way: a statement, or those of a transaction."""
        self._waits = False
        self._failed = False
        self._held = b""

    def take_request(self, chunk: bytes) -> bytes | None:
        """Return what goes on to the server; None if the connection breaks before."""
        for kind, body in self._requests.read(chunk):
            if kind == b"Q":
                self._asked += body + b"\n"
            elif kind == b"P":
                name, text, *_ = body.split(b"\0", 2)
                self._prepared[name] = text
            elif kind == b"B":
                self._asked += self._prepared.get(body.split(b"\0", 2)[1], b"") + b"\n"
            if kind in (b"Q", b"S"):
                self._waits = True
                if self._proxy.decide("request", self._asked):
                    return None
        return chunk

    def take_answer(self, chunk: bytes) -> bytes | None:
        """Return what goes on to the client; None if the connection breaks before."""
        self._held += chunk
        for kind, body in self._answers.read(chunk):
            self._failed = self._failed or kind == b"E"
            if kind != b"Z":
                continue
            self._waits = False
            if body == b"I":  # nothing is open any more: it is committed
                if not self._failed and self._proxy.decide("answer", self._asked):
                    return None
                self._asked, self._failed = b"", False
        if self._waits:
            return b""  # until it is known how this answer ends
        passed, self._held = self._held, b""
        return passed
