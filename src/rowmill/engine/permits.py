"""Turns the pace's answers into waiting: who may write an intent, and who may send. One for each app and server key."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rowmill.domain.events import Event, Fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.causes import Cause
    from rowmill.domain.pace import Pace, ResponseMode, Sample, Start
    from rowmill.ports.clock import Clock, Timer

# A gate shorter than this is not worth a message.
WORTH_TELLING = 2.0


# Runs of the same length that start together end together, and the burst of their ends makes the burst of the next
# starts: everybody then waits for everybody. Starts are spaced, a few at a time, so that the bursts dissolve.
LONGEST_SPACING = 0.002
BURST = 3

Waiters = deque[asyncio.Future[None]]


class Permits:
    """In flight at Dify: never more than the pace allows. Beside them a few intents that are being committed, just as
    many as it takes to hide the commit behind the runs (docs/design/pay-once.md).

    Batches of the same app share it: a place goes to the batch that has fewest in flight for its weight, so that a huge
    batch cannot starve a small one.
    """

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self.pace = pace
        self.run_time = 1.0
        """seconds that a run took lately"""
        self.preparation = 0.01
        """seconds that it took lately from a reservation to a standing connection: commit of the intent, handshake"""
        self._clock = clock
        self._shares: list[Share] = []
        self._intending = 0
        self._next_start = 0.0
        self._timer: Timer | None = None
        self._turn = 0

    def join(self, weight: float, most: int, tell: Callable[[Event], None]) -> Share:
        """A batch comes in, that wants `most` at once itself. It leaves by `Share.leave`."""
        share = Share(self, weight, most, tell)
        self._shares.append(share)
        return share

    def leave(self, share: Share) -> None:
        self._shares.remove(share)
        self.wake()

    @property
    def is_idle(self) -> bool:
        return not self._shares

    @property
    def ahead(self) -> int:
        """How many rows beyond the pace are being prepared, so that the lanes stay full meanwhile."""
        if self.pace.is_probing:
            return 0
        limit = self.pace.limit
        wanted = limit * 2 * self.preparation / max(self.run_time, 0.001)
        return min(limit, math.floor(0.5 + wanted))

    def may_prepare(self) -> bool:
        now = self._clock.monotonic()
        return now >= self.pace.gate and self.pace.room(now) + self.ahead > self._intending

    def may_start(self) -> bool:
        now = self._clock.monotonic()
        return now >= self._next_start and now >= self.pace.next_start(now) and self.pace.room(now) > 0

    def intending(self, change: int) -> None:
        self._intending += change
        self.wake_reserver()  # there may be room for one more

    def start(self, mode: ResponseMode) -> Start:
        now = self._clock.monotonic()
        gap = min(LONGEST_SPACING, 0.8 * self.run_time / self.pace.limit)
        self._next_start = max(self._next_start, now - BURST * gap) + gap
        start = self.pace.started(now, mode)
        self.wake_sender()
        return start

    def turn(self) -> int:
        """Numbers the grants: of two batches with equal claims the one goes first that waited longer."""
        self._turn += 1
        return self._turn

    def wake_sender(self) -> bool:
        """One place, one to take it: waking everybody for each run would cost more than the run."""
        return self._wake_best(lambda share: share.senders)

    def room_again(self) -> None:
        """There may be room: whoever takes it wakes the next."""
        self.wake_sender()
        self.wake_reserver()

    def wake_reserver(self) -> bool:
        return self._wake_best(lambda share: share.reservers)

    def _wake_best(self, queue: Callable[[Share], Waiters]) -> bool:
        waiting = [share for share in self._shares if queue(share) and share.has_room]
        return bool(waiting) and _wake_one(queue(min(waiting, key=Share.claim)))

    def wake(self) -> None:
        """Something changed for everybody: the gate, the limit."""
        for share in self._shares:
            share.wake()

    def arm(self) -> None:
        """One timer for all who wait for a moment: one each would wake everybody for every single start."""
        now = self._clock.monotonic()
        moments = [moment for moment in (self.pace.next_start(now), self._next_start) if moment > now]
        if moments and self._timer is None:
            self._timer = self._clock.call_later(max(moments) - now, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.wake_sender()
        self.wake_reserver()
        if any(share.senders or share.reservers for share in self._shares):
            self.arm()


class Share:
    """What one batch has of an app's permits."""

    def __init__(self, permits: Permits, weight: float, most: int, tell: Callable[[Event], None]) -> None:
        self.permits = permits
        self.senders: Waiters = deque()
        self.reservers: Waiters = deque()
        self.proven = asyncio.Event()
        """a row of this batch was accepted: before that one goes alone, for the batch may be set up wrongly"""
        self._weight = weight
        self._most = most
        self._tell = tell
        self._clock = permits._clock  # noqa: SLF001  its other half
        self._in_flight = 0
        self._intending = 0
        self._last_turn = 0

    @property
    def pace(self) -> Pace:
        return self.permits.pace

    @property
    def has_room(self) -> bool:
        return self._in_flight < self._most

    def claim(self) -> tuple[float, int]:
        """The smallest goes first."""
        return self._in_flight / self._weight, self._last_turn

    def leave(self) -> None:
        """The batch is over."""
        self.permits.leave(self)

    async def reserve(self, quit_: asyncio.Event) -> bool:
        """Wait until a row may be prepared; False when it is time to quit. Ends with `send` or `cancel`."""
        while not quit_.is_set():
            if self._may_prepare():
                self._intending += 1
                self.permits.intending(1)
                return True
            await self._wait(self.reservers, None)
        self.permits.wake_reserver()  # whoever woke this one meant somebody to go on
        return False

    def _may_prepare(self) -> bool:
        mine = self._in_flight + self._intending
        return mine < self._most + self.permits.ahead and self.permits.may_prepare()

    async def send(self, patience: float, quit_: asyncio.Event, prepared: float, mode: ResponseMode) -> Start | None:
        """Turn a reservation, `prepared` seconds old, into a place in flight; None (and no reservation any more) if
        none came free in time."""
        permits = self.permits
        permits.preparation += 0.1 * (min(prepared, 1.0) - permits.preparation)
        deadline = self._clock.monotonic() + patience
        try:
            while quit_.is_set() or not (self.has_room and permits.may_start()):
                if quit_.is_set() or self._clock.monotonic() >= deadline:
                    return None
                await self._wait(self.senders, deadline)
            self._in_flight += 1
            self._last_turn = permits.turn()
            return permits.start(mode)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give a reservation up."""
        self._intending -= 1
        self.permits.intending(-1)
        self.permits.wake_sender()

    def accepted(self, start: Start) -> None:
        """Dify started the run."""
        was_away = self.pace.is_probing and self.pace.proven
        self.pace.accepted(start, self._clock.monotonic())
        if was_away:
            self._tell(Event(Fact.SERVER_BACK))
        self.proven.set()
        self.permits.room_again()

    def ended(self, start: Start, sample: Sample, seconds: float | None, cause: Cause | None = None) -> None:
        """The run has ended, or is no longer listened to; `seconds` if it ran to its end."""
        if start.over:
            return
        self._in_flight -= 1
        if seconds is not None:
            self.permits.run_time += 0.1 * (seconds - self.permits.run_time)
            self.proven.set()
        self._note(start, sample, cause)
        self.permits.room_again()

    def trouble(self, sample: Sample, cause: Cause | None) -> None:
        """Something told about the server although no run was sent: nobody there, or a file that it did not take."""
        self._note(self.pace.started(self._clock.monotonic()), sample, cause)

    def _note(self, start: Start, sample: Sample, cause: Cause | None) -> None:
        now, before = self._clock.monotonic(), self.pace.gate
        self.pace.ended(start, sample, now, self._clock.chance())
        if cause is not None and self.pace.gate > max(before, now + WORTH_TELLING):
            self._tell(Event(Fact.GATE, {"seconds": round(self.pace.gate - now, 1), "cause": cause.value}))

    def wake(self) -> None:
        """Something changed for everybody: the wish to go on."""
        for waiters in (self.senders, self.reservers):
            while _wake_one(waiters):
                pass

    async def _wait(self, waiters: Waiters, deadline: float | None) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        self.permits.arm()
        now = self._clock.monotonic()
        patience = self._clock.call_later(deadline - now, partial(_set, waiter)) if deadline is not None else None
        try:
            await waiter
        finally:
            if patience is not None:
                patience.cancel()
            with suppress(ValueError):
                waiters.remove(waiter)  # nobody may wake one who has left, instead of one who waits


def _wake_one(waiters: Waiters) -> bool:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return True
    return False


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
