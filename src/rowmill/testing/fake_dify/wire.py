"""One HTTP answer on its way out: can be cut, slowed and broken as the network would."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Send = Callable[[dict[str, Any]], Awaitable[None]]

# Where rowmill.testing.fake_dify.server leaves the connection for us.
TRANSPORT = "rowmill.transport"


class Wire:
    """Writes to one client. After an end or an abort everything written is swallowed, as a run goes on unheard."""

    def __init__(self, scope: dict[str, Any], send: Send, version: str) -> None:
        self._send = send
        self._transport = scope.get(TRANSPORT)
        self._version = version.encode()
        self._left: int | None = None
        self.one_byte = False
        self.closed = False
        self._hanging: asyncio.Task[None] | None = None

    @property
    def heard(self) -> bool:
        """Whether the client is still there."""
        return not self.closed and not (self._transport is not None and self._transport.is_closing())

    def hang(self, *, drip: bool = False) -> None:
        """From here on the connection stays open and says nothing that matters."""
        self.closed = True
        self._hanging = asyncio.create_task(self._until_gone(drip=drip))

    async def _until_gone(self, *, drip: bool) -> None:
        while self._transport is not None and not self._transport.is_closing():
            if drip:
                await self._send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await asyncio.sleep(0.1)

    async def hung_up(self) -> None:
        """Returns when a hanging client has gone; the server would close the connection of a request that is done."""
        if self._hanging is not None:
            await self._hanging

    def cut_after(self, count: int) -> None:
        self._left = count

    async def open(self, status: int, kind: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        if self.closed:
            return
        known = ((b"content-type", kind.encode()), (b"x-version", self._version), (b"x-env", b"PRODUCTION"))
        await self._send({"type": "http.response.start", "status": status, "headers": [*known, *headers]})

    async def write(self, data: bytes) -> None:
        if self.closed or not data:
            return
        if self._left is not None:
            data, self._left = data[: self._left], self._left - len(data)
        pieces = [data[i : i + 1] for i in range(len(data))] if self.one_byte else [data]
        for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._left is not None and self._left <= 0:
            self.abort()

    async def end(self, data: bytes = b"") -> None:
        """A clean end."""
        if self.closed:
            return
        if data:
            await self.write(data)
        if not self.closed:
            self.closed = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """The connection breaks, without a terminator."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    async def answer(
        self, status: int, body: bytes, kind: str = "application/json", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """A whole answer."""
        await self.open(status, kind, (*headers, (b"content-length", str(len(body)).encode())))
        await self.end(body)
