"""Turns the pace's answers into waiting: who may write an intent, and who may send."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rowmill.domain.events import Event, Fact
from rowmill.domain.pace import FixedPace, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.causes import Cause
    from rowmill.ports.clock import Clock, Timer

# A gate shorter than this is not worth a message.
WORTH_TELLING = 2.0


# Runs of the same length that start together end together, and the burst of their ends makes the burst of the next
# starts: everybody then waits for everybody. Starts are spaced, a few at a time, so that the bursts dissolve.
LONGEST_SPACING = 0.002
BURST = 3


class Permits:
    """In flight at Dify: never more than the pace allows. Beside them a few intents that are being committed, just as
    many as it takes to hide the commit behind the runs (docs/design/pay-once.md)."""

    def __init__(self, pace: FixedPace, clock: Clock, tell: Callable[[Event], None]) -> None:
        self.pace = pace
        self._clock = clock
        self._tell = tell
        self._senders: deque[asyncio.Future[None]] = deque()
        self._reservers: deque[asyncio.Future[None]] = deque()
        self._intending = 0
        self.in_flight = 0
        self.run_time = 1.0
        """seconds that a run took lately"""
        self.preparation = 0.01
        """seconds that it took lately from a reservation to a standing connection: commit of the intent, handshake"""
        self._down = False
        self._next_start = 0.0
        self._timer: Timer | None = None
        self.proven = asyncio.Event()

    @property
    def ahead(self) -> int:
        """How many rows beyond the pace are being prepared, so that the lanes stay full meanwhile."""
        if not self.pace.proven:
            return 0
        wanted = self.pace.limit * 2 * self.preparation / max(self.run_time, 0.001)
        return min(self.pace.limit, math.floor(0.5 + wanted))

    async def reserve(self, quit_: asyncio.Event) -> bool:
        """Wait until a row may be prepared; False when it is time to quit. Ends with `send` or `cancel`."""
        while not quit_.is_set():
            if self._may_prepare(self._clock.monotonic()):
                self._intending += 1
                _wake_one(self._reservers)  # there may be room for one more
                return True
            await self._wait(self._reservers, None)
        return False

    def _may_prepare(self, now: float) -> bool:
        return now >= self.pace.gate and self.pace.room(now, self.in_flight) + self.ahead > self._intending

    async def send(self, patience: float, quit_: asyncio.Event, prepared: float) -> bool:
        """Turn a reservation, `prepared` seconds old, into a place in flight; False (and no reservation any more) if
        none came free in time."""
        self.preparation += 0.1 * (min(prepared, 1.0) - self.preparation)
        deadline = self._clock.monotonic() + patience
        try:
            while not self._may_start(self._clock.monotonic()):
                if quit_.is_set() or self._clock.monotonic() >= deadline:
                    return False
                await self._wait(self._senders, deadline)
            self.in_flight += 1
            self._note_start(self._clock.monotonic())
            _wake_one(self._senders)
            return True
        finally:
            self.cancel()

    def _may_start(self, now: float) -> bool:
        return now >= self._next_start and self.pace.room(now, self.in_flight) > 0

    def _note_start(self, now: float) -> None:
        gap = min(LONGEST_SPACING, 0.8 * self.run_time / self.pace.limit)
        self._next_start = max(self._next_start, now - BURST * gap) + gap

    def cancel(self) -> None:
        """Give a reservation up."""
        self._intending -= 1
        _wake_one(self._reservers)

    def release(self, seconds: float | None) -> None:
        """A run has ended, or is no longer listened to; `seconds` if it ran to its end."""
        self.in_flight -= 1
        if seconds is not None:
            self.run_time += 0.1 * (seconds - self.run_time)
        # One place, one to take it: waking everybody for each run would cost more than the run.
        _wake_one(self._senders or self._reservers)

    def accepted(self) -> None:
        """Dify started a run."""
        if self._down:
            self._down = False
            self._tell(Event(Fact.SERVER_BACK))
        newly = not self.pace.proven
        self.pace.note(Signal.OK, self._clock.monotonic())
        if newly:
            self.proven.set()
            self.wake()

    def trouble(self, signal: Signal, cause: Cause, retry_after: float | None = None) -> None:
        """Dify did not take a run."""
        now, before = self._clock.monotonic(), self.pace.gate
        self.pace.note(signal, now, retry_after=retry_after, jitter=self._clock.chance())
        self._down = self._down or signal is Signal.DOWN
        if self.pace.gate > max(before, now + WORTH_TELLING):
            self._tell(Event(Fact.GATE, {"seconds": round(self.pace.gate - now, 1), "cause": cause.value}))
        self.wake()

    def wake(self) -> None:
        """Something changed for everybody: the gate, the limit, the wish to go on."""
        for waiters in (self._senders, self._reservers):
            while waiters:
                _wake_one(waiters)

    async def _wait(self, waiters: deque[asyncio.Future[None]], deadline: float | None) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        self._arm()
        now = self._clock.monotonic()
        patience = self._clock.call_later(deadline - now, partial(_set, waiter)) if deadline is not None else None
        try:
            await waiter
        finally:
            if patience is not None:
                patience.cancel()
            with suppress(ValueError):
                waiters.remove(waiter)  # nobody may wake one who has left, instead of one who waits

    def _arm(self) -> None:
        """One timer for all who wait for a moment: one each would wake everybody for every single start."""
        now = self._clock.monotonic()
        moments = [moment for moment in (self.pace.gate, self._next_start) if moment > now]
        if moments and self._timer is None:
            self._timer = self._clock.call_later(min(moments) - now, self._tick)

    def _tick(self) -> None:
        self._timer = None
        _wake_one(self._senders)
        _wake_one(self._reservers)
        if self._senders or self._reservers:
            self._arm()


def _wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
