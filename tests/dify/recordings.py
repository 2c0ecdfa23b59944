"""The recorded exchanges with real Dify servers: how to read them, and a socket that answers as they did."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLDER = Path(__file__).parent / "transcripts"


@dataclass(frozen=True)
class Recording:
    """One exchange: what curl sent, and the answer byte by byte (chunked framing removed, as curl shows it)."""

    name: str
    version: str
    method: str
    path: str
    body: str | None
    head: bytes
    answer: bytes
    timed_out: bool

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def is_stream(self) -> bool:
        return b"text/event-stream" in self.head

    @property
    def json(self) -> dict:
        return json.loads(self.answer)

    @property
    def events(self) -> list[dict]:
        return [json.loads(line[6:]) for line in self.answer.split(b"\n") if line.startswith(b"data: ")]

    @property
    def sent(self) -> dict:
        return json.loads(self.body or "{}")


def all_recordings() -> list[Recording]:
    """Every file that holds one HTTP exchange; the others are logs of a scenario."""
    files = sorted(FOLDER.glob("*/*.txt"))
    return [found for path in files if (found := read(path)) is not None]


def read(path: Path) -> Recording | None:
    text = path.read_bytes()
    curl = re.search(rb"^\$ (curl .*)$", text, re.MULTILINE)
    start = text.find(b"HTTP/1.1 ")
    end = text.rfind(b"\n--- curl:")
    if curl is None or start < 0:
        return None
    words = shlex.split(curl.group(1).decode())
    if text.startswith(b"HTTP/1.1 100", start):
        start = text.find(b"HTTP/1.1 ", start + 1)
    head, _, answer = text[start:end].replace(b"\r\n", b"\n").partition(b"\n\n")
    url = next(word for word in words if word.startswith("http://"))
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length is not None:
        answer = answer[: int(length.group(1))]
    return Recording(
        name=path.stem,
        version=path.parent.name,
        method=words[words.index("-X") + 1] if "-X" in words else "GET",
        path=url.split("/v1", 1)[1] if "/v1" in url else "/",
        body=" ".join(words[words.index("--data-binary") + 1 :][:1]) if "--data-binary" in words else None,
        head=head,
        answer=answer,
        timed_out=b"exit=28" in text[end:],
    )


@asynccontextmanager
async def replayed(recording: Recording, cuts: int = 0) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives this answer to whatever is asked. `cuts`: bytes per write, 0 = all at once.

    Yields its base URL and the list of requests that it got.
    """
    requests: list[bytes] = []
    answers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.add(asyncio.current_task())  # type: ignore[arg-type]
        with suppress(ConnectionError):
            await tell(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        requests.append(head + (await reader.readexactly(int(length.group(1))) if length else b""))
        writer.write(_head(recording))
        for piece in _pieces(recording.answer, cuts):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if _is_chunked(recording) else piece)
            if cuts:
                await asyncio.sleep(0)
        if recording.timed_out:
            await reader.read()  # the real server was silent here until curl gave up
        elif _is_chunked(recording):
            writer.write(b"0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", requests
    finally:
        server.close()
        await asyncio.gather(*answers)


def _is_chunked(recording: Recording) -> bool:
    return b"chunked" in recording.head


def _head(recording: Recording) -> bytes:
    lines = [line for line in recording.head.split(b"\n") if not line.lower().startswith(b"content-length")]
    if not _is_chunked(recording):
        lines.append(b"Content-Length: %d" % len(recording.answer))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _pieces(data: bytes, cuts: int) -> list[bytes]:
    if not cuts:
        return [data] if data else []
    return [data[i : i + cuts] for i in range(0, len(data), cuts)]
