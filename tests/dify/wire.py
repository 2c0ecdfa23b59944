"""Small servers of which a test controls every byte."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from rowmill.dify.client import Deadlines, DifyClient
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure
from rowmill.ports.dify import RunEvent, RunRequest

KEY = "app-canaryCANARY123"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
PATIENT = Deadlines(connect=10, answer=10, first_event=10, silence=10, usage=0.05, run=20)
ASK = RunRequest({"query": "hi"}, "u1")

STARTED = {
    "event": "workflow_started",
    "workflow_run_id": "run-1",
    "task_id": "task-1",
    "data": {"id": "run-1", "workflow_id": "wf-1", "inputs": {"sys.user_id": "u1"}},
}
FINISHED = {
    "event": "workflow_finished",
    "workflow_run_id": "run-1",
    "task_id": "task-1",
    "data": {
        "id": "run-1",
        "workflow_id": "wf-1",
        "status": "succeeded",
        "outputs": {"answer": "A"},
        "error": None,
        "elapsed_time": 1.5,
        "total_tokens": 7,
    },
}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def reply(status: int, body: Any, kind: str = "application/json", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@dataclass
class Talk:
    """One connection, after its request was read."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: bytes

    @property
    def path(self) -> str:
        return self.request.split(b" ", 2)[1].decode()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
        await self.writer.drain()

    async def gone(self) -> None:
        """Waits until the client has closed."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        sock = self.writer.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Wire:
    """What a server saw."""

    url: str
    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


Script = Callable[[Talk], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script | bytes, *, reads: bool = True) -> AsyncIterator[Wire]:
    """A server on loopback that plays the script (or gives the answer) on every connection, after its request."""
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        wire.connections += 1
        try:
            request = await _request(reader) if reads else b""
            wire.requests.append(request)
            if isinstance(script, bytes):
                await Talk(reader, writer, request).send(script)
            else:
                await script(Talk(reader, writer, request))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left first
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(f"http://127.0.0.1:{port}/v1", port)
    try:
        yield wire
    finally:
        server.close()
        if tasks:
            # The client has left: every script comes to its end.
            _, stuck = await asyncio.wait(tasks, timeout=5)
            for task in stuck:
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, Exception):
                raise result


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length is not None:
        return head + await reader.readexactly(int(length.group(1)))
    if b"chunked" in head.lower():
        return head + await reader.readuntil(b"0\r\n\r\n")
    return head


def client_of(
    wire: Wire | str,
    mode: Mode = Mode.WORKFLOW,
    deadlines: Deadlines = PATIENT,
    wall: Callable[[], float] = lambda: 0.0,
) -> DifyClient:
    return DifyClient(wire if isinstance(wire, str) else wire.url, KEY, mode, deadlines=deadlines, wall=wall)


async def run(
    client: DifyClient, request: RunRequest = ASK, on_send: Callable[[], Awaitable[None]] | None = None
) -> tuple[list[RunEvent], Failure | None]:
    """All events of a run, and how it failed if it did. No failure may tell the key."""
    events: list[RunEvent] = []
    try:
        async for event in client.run(request, on_send):
            events.append(event)
    except DifyFailureError as error:
        told = f"{error} {error!r} {error.args} {error.failure!r} {error.__cause__!r} {client!r}"
        assert KEY not in told
        return events, error.failure
    return events, None


async def run_at(script: Script | bytes, **options: Any) -> tuple[list[RunEvent], Failure | None]:
    """One run against one server."""
    async with serving(script) as wire, client_of(wire, **options) as client:
        return await run(client)


async def failure_of(call: Awaitable[Any]) -> Failure:
    with pytest.raises(DifyFailureError) as caught:
        await call
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value.failure
