"""A client that sees what travels on the wire: bytes, chunks, and how the connection ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from rowmill.testing.fake_dify import Serving


@dataclass
class Seen:
    """One answer. `end`: `clean`, `cut` (no terminator), or `open` (the server said no more, and did not hang up)."""

    raw: bytes = b""
    end: str = "open"
    chunks: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: {") and line.endswith(b"}")]
        return [json.loads(line.decode("utf-8", "replace")) for line in lines]

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    @property
    def finish(self) -> dict[str, Any]:
        return next(event["data"] for event in self.events if event["event"] == "workflow_finished")


def _request(path: str, body: dict[str, Any], key: str) -> bytes:
    data = json.dumps(body).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def ask(
    serving: Serving, inputs: dict[str, Any], *, key: str = "app-echo", user: str = "u", streaming: bool = True,
    patience: float = 9,
) -> Seen:  # fmt: skip
    """Run once; read until the server hangs up, or for `patience` seconds."""
    body = {"inputs": inputs, "response_mode": "streaming" if streaming else "blocking", "user": user}
    base = urlsplit(serving.url)
    reader, writer = await asyncio.open_connection(base.hostname, base.port)
    seen = Seen()
    try:
        writer.write(_request("/v1/workflows/run", body, key))
        await _read(reader, seen, patience)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return seen


async def _read(reader: asyncio.StreamReader, seen: Seen, patience: float) -> None:
    hung_up = False
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not hung_up:
                data = await _some(reader)
                seen.raw += data
                hung_up = not data
    whole = _take_apart(seen)
    if hung_up:
        seen.end = "clean" if whole else "cut"


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionError:
        return b""


def _take_apart(seen: Seen) -> bool:
    """Fills `chunks`; True if the answer came to its proper end."""
    _, _, rest = seen.raw.partition(b"\r\n\r\n")
    if b"chunked" not in seen.head:
        seen.chunks = [rest]
        length = seen.head.partition(b"content-length: ")[2].split(b"\r\n")[0]
        return bool(length) and len(rest) == int(length)
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return True
        seen.chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return False


class Desk:
    """What a client can look up about runs."""

    def __init__(self, serving: Serving, client: aiohttp.ClientSession) -> None:
        self.serving = serving
        self._client = client

    async def get(self, path: str, key: str = "app-echo", **query: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self._client.get(self.serving.url + path, params=query, headers=headers) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any, key: str = "app-echo") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        url = self.serving.url.removesuffix("/v1") + path
        async with self._client.post(url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def detail(self, run_id: str, key: str = "app-echo") -> str | int:
        """The run's status as its row says it, or the HTTP status."""
        status, body = await self.get(f"/workflows/run/{run_id}", key)
        return body["status"] if status == 200 else status

    async def logged(self, user: str, key: str = "app-echo") -> list[str]:
        """The statuses of the user's runs, newest first."""
        _, body = await self.get("/workflows/logs", key, created_by_end_user_session_id=user)
        return [line["workflow_run"]["status"] for line in body["data"]]

    async def until(self, condition: Any, seconds: float = 3) -> Any:
        """Asks again until the answer is true."""
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def desk(serving: Serving) -> AsyncIterator[Desk]:
    # Connections are not kept: a server that goes down would leave them half open.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield Desk(serving, client)
