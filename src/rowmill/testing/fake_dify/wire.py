"""One HTTP answer on its way out: can be cut, slowed and broken as the network would."""

from __future__ import annotations

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

    @property
    def heard(self) -> bool:
        """Whether the client is still there."""
        return not self.closed and not (self._transport is not None and self._transport.is_closing())

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
