"""A clock that runs faster than the world, so that back-offs of minutes pass in a test's tenths of a second."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class QuickClock:
    """The Clock port, `speed` times as fast. Its jitter is always the same."""

    def __init__(self, speed: float = 50.0) -> None:
        self._speed = speed
        self._start = time.time()

    def monotonic(self) -> float:
        return time.monotonic() * self._speed

    def wall(self) -> float:
        return self._start + (time.time() - self._start) * self._speed

    def chance(self) -> float:
        return 0.5

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, seconds) / self._speed, call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self._speed)

    async def sleep_or(self, seconds: float, sign: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(sign.wait(), max(0.0, seconds) / self._speed)
