"""A wire between Rowmill and the fake, at which the answers to run requests can be cut, stalled and broken at any byte,
as a network would. Everything else passes untouched."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
import threading
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

RUN = b"POST /v1/workflows/run "


@dataclass(frozen=True)
class Harm:
    """After `after` bytes of the answer: "fin" (the connection ends), "rst", "stall" (nothing more comes), "drip"
    (comments for ever), "flood" (`size` bytes that never end an event), "header" (`size` bytes of one), "bomb" (gzip
    that unpacks to `size` bytes). `old_http`: the answer's end is told by the connection's alone."""

    how: str
    after: int = 0
    size: int = 0
    old_http: bool = False


async def _wind_up(writers: set[asyncio.StreamWriter]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)  # transports close one step later


class Proxy:
    """`harm` is asked for each run request, with its number from 0; None lets it pass."""

    def __init__(self, upstream: int, harm: Callable[[int], Harm | None]) -> None:
        self._upstream = upstream
        self._harm = harm
        self._numbers = itertools.count()
        self.struck = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(_wind_up(self._writers))
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            harm = self._harm(next(self._numbers)) if head.startswith(RUN) else None
            there, out = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._writers.add(out)
            out.write(head)
            pump = asyncio.create_task(_pump(reader, out))
            try:
                await self._answer(there, writer, harm)
            finally:
                pump.cancel()
                out.transport.abort()
                writer.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, harm: Harm | None) -> None:
        pieces = _unframed(there) if harm is not None and harm.old_http else _as_it_comes(there)
        left = None if harm is None else harm.after
        async with aclosing(pieces):
            async for data in pieces:
                # Of an answer that is to be broken before its first byte the run is to have begun.
                writer.write(data if left is None else data[:left])
                await writer.drain()
                left = None if left is None else max(0, left - len(data))
                if left == 0:
                    break
        if harm is not None and left == 0:
            self.struck += 1
            await _strike(writer, harm)


async def _as_it_comes(there: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    while data := await there.read(65536):
        yield data


async def _unframed(there: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """An answer in chunks, as one whose end is the connection's."""
    head = await there.readuntil(b"\r\n\r\n")
    yield re.sub(rb"(?i)transfer-encoding:[^\r]*\r\n", b"", head)
    while size := int(await there.readline(), 16):
        yield await there.readexactly(size)
        await there.readline()


async def _strike(writer: asyncio.StreamWriter, harm: Harm) -> None:
    match harm.how:
        case "rst":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        case "fin":
            writer.close()
        case "stall":
            await asyncio.sleep(600)
        case "drip":
            while not writer.is_closing():
                writer.write(b":\n\n")
                await asyncio.sleep(0.05)
        case "flood":
            await _pour(writer, b"x" * 2**20, harm.size)
        case "header":
            writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            await _pour(writer, b"x" * 2**20, harm.size)
        case "bomb":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n")
            writer.write(_bomb(harm.size))
            await writer.drain()


async def _pour(writer: asyncio.StreamWriter, piece: bytes, size: int) -> None:
    for _ in range(size // len(piece)):
        writer.write(piece)
        await writer.drain()


@lru_cache(maxsize=1)
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    piece = bytes(2**20)
    return b"".join(packer.compress(piece) for _ in range(size // 2**20)) + packer.flush()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextmanager
def answering(answer: Callable[[bytes], bytes | Iterator[bytes]], ssl=None) -> Iterator[Answering]:
    """A server that answers each connection's first request with raw bytes, and then ends it."""
    server = Answering(answer, ssl)
    server.thread.start()
    server.ready.wait(10)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.loop.stop)
        server.thread.join(10)


class Answering:
    """See `answering`. `heard` holds what clients sent."""

    def __init__(self, answer: Callable[[bytes], bytes | Iterator[bytes]], ssl) -> None:
        self._answer, self._ssl = answer, ssl
        self.heard: list[bytes] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.loop.set_exception_handler(lambda *_: None)
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl))
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(_wind_up(self._writers))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heard.append(head)
            answer = self._answer(head)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                writer.write(piece)
                await writer.drain()
        writer.close()
