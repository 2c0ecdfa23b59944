"""Time, as the engine needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never jump: for gates, delays and deadlines. The same clock for all processes of one boot."""
        ...

    def wall(self) -> float:
        """Unix seconds, for display and for comparing with Dify's logs; may jump."""
        ...

    def chance(self) -> float:
        """A random number in [0, 1), for jitter."""
        ...

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call it after so many seconds, unless the timer is cancelled."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def sleep_or(self, seconds: float, sign: asyncio.Event) -> None:
        """Sleep, but not beyond the moment at which the sign is set."""
        ...
