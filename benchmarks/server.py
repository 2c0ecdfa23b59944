"""A server that costs next to nothing, so that a benchmark measures Rowmill and not the fake.

Answers like Dify 1.14 for one app with two text fields; every run takes exactly `latency` ms and succeeds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time

import uvloop

FORM = [
    {"text-input": {"variable": "query", "label": "Query", "type": "text-input", "required": True, "max_length": 256}},
    {"paragraph": {"variable": "note", "label": "Note", "type": "paragraph", "required": False}},
]
HEAD = "HTTP/1.1 200 OK\r\nX-Version: 1.14.2\r\nContent-Type: {}\r\n{}\r\n\r\n"
STREAM = HEAD.format("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked").encode()
IDS = '"workflow_run_id":"{run}","task_id":"t-{run}"'
STARTED = 'data: {{"event":"workflow_started",' + IDS + ',"data":{{"id":"{run}","workflow_id":"w"}}}}\n\n'
NODE = 'data: {{"event":"node_finished",' + IDS + ',"data":{{"id":"n","node_id":"n{n}","status":"succeeded"}}}}\n\n'
FINISHED = (
    'data: {{"event":"workflow_finished",' + IDS + ',"data":{{"id":"{run}","workflow_id":"w","status":"succeeded",'
    '"outputs":{{"answer":"an answer of some length, as models give it"}},"error":null,"elapsed_time":0.05,'
    '"total_tokens":12,"total_steps":4}}}}\n\n'
)
numbers = itertools.count()


def answer(value: object) -> bytes:
    body = json.dumps(value).encode()
    return HEAD.format("application/json", f"Content-Length: {len(body)}").encode() + body


def chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


class Dify(asyncio.Protocol):
    """One connection, one request."""

    latency = 0.05
    hold = 0.0
    first: float | None = None
    """when the first run was asked for since somebody asked for it; of a clock that all processes share"""

    def __init__(self) -> None:
        self.heard = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] -- uvloop's transports are no subclass

    def data_received(self, data: bytes) -> None:
        self.heard += data
        head, found, body = self.heard.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET /v1/info"):
            self.close(answer({"name": "bench", "description": "", "tags": [], "mode": "workflow"}))
        elif head.startswith(b"GET /v1/parameters"):
            self.close(answer({"user_input_form": FORM, "system_parameters": {}}))
        elif head.startswith(b"GET /first"):
            first, Dify.first = Dify.first, None
            self.close(answer({"first": first}))
        elif head.startswith(b"GET "):
            self.close(answer({"data": [], "has_more": False}))  # nobody's run is in the log
        elif len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            self.run(f"{next(numbers):08x}-0000-4000-8000-000000000000")

    def run(self, run: str) -> None:
        assert self.transport is not None
        Dify.first = Dify.first or time.monotonic()
        self.transport.write(STREAM + chunk("event: ping\n\n") + chunk(STARTED.format(run=run)))
        asyncio.get_running_loop().call_later(self.latency, self.finish, run)

    def finish(self, run: str) -> None:
        assert self.transport is not None
        nodes = "".join(NODE.format(run=run, n=n) for n in range(8))
        self.transport.write(chunk(nodes + FINISHED.format(run=run)))
        if self.hold:
            asyncio.get_running_loop().call_later(self.hold, self.close, b"0\r\n\r\n")
        else:
            self.close(b"0\r\n\r\n")

    def close(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
            self.transport.close()


async def main(port: int, latency: float, hold: float) -> None:
    Dify.latency, Dify.hold = latency / 1000, hold / 1000
    server = await asyncio.get_running_loop().create_server(Dify, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*(int(text) for text in sys.argv[1:4])))
