"""The fake on a real socket: in a thread for tests, or as a program."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rowmill.testing.fake_dify.wire import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rowmill.testing.fake_dify.app import FakeDify


class _Protocol(HttpToolsProtocol):
    """Lets the app reach its connection, to break it."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]


class _Server(uvicorn.Server):
    """Goes down as a killed process does: no answer is finished, and none is made up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _config(fake: FakeDify) -> uvicorn.Config:
    return uvicorn.Config(
        fake, http=_Protocol, ws="none", lifespan="off", log_level="critical", access_log=False,
        timeout_graceful_shutdown=0, server_header=False, backlog=2048,
    )  # fmt: skip


class Serving:
    """A fake that is being served; can go down and come back on the same port."""

    def __init__(self, fake: FakeDify, host: str, port: int) -> None:
        self.fake = fake
        self._host = host
        self.port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}/v1"

    def start(self) -> None:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((self._host, self.port))
        listening.listen(2048)
        self.port = listening.getsockname()[1]
        self.fake.execution.new_process()
        self._server = _Server(_config(self.fake))
        self._thread = threading.Thread(target=self._serve, args=(self._server, listening), daemon=True)
        self._thread.start()

    start_again = start

    @staticmethod
    def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
        async def serve() -> None:
            await server.serve([listening])
            # Runs that nobody hears any more end with the server, as its process would.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(serve())
        listening.close()

    def stop(self) -> None:
        """Breaks all connections."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(20)
            self._server = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 -- not there on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def serve(fake: FakeDify, host: str = "127.0.0.1", port: int = 0) -> Iterator[Serving]:
    """Serve a fake in a thread, on a free port unless one is named."""
    serving = Serving(fake, host, port)
    serving.start()
    try:
        yield serving
    finally:
        serving.stop()


def run_forever(fake: FakeDify, host: str, port: int, ready: Callable[[int], None] = lambda _: None) -> None:
    """Serve until Ctrl-C; `ready` is told the port once it is listened on. Raises OSError where it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
        ready(listening.getsockname()[1])
        server = uvicorn.Server(_config(fake))
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(server.serve([listening]))
    fake.ledger.close()
