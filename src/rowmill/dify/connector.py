"""The moment between a standing connection and the first byte, for whoever sends a run."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from rowmill.ports.dify import OnSend

# What `run` was given as `on_send`, for the connection that is being made in this task.
ON_SEND: ContextVar[OnSend | None] = ContextVar("on_send", default=None)


class Connector(aiohttp.TCPConnector):
    """Awaits `on_send` once the connection stands, and closes the connection where that raises."""

    def __init__(self, patience: float, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience

    async def _create_connection(self, *args: Any) -> Any:
        # aiohttp's own limit is for the socket alone: a name server or a TLS handshake may be silent as well.
        async with asyncio.timeout(self._patience):
            protocol = await super()._create_connection(*args)
        on_send = ON_SEND.get()
        if on_send is not None:
            try:
                await on_send()
            except BaseException:
                protocol.close()
                raise
        return protocol
