"""The rows that may start next: fed from the store in pages, never a task or an object per row of the batch."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from rowmill.domain.causes import Cause
from rowmill.domain.conversation import Turn, judge_turn
from rowmill.ports.store import AttemptKey, Break

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rowmill.ports.clock import Clock
    from rowmill.ports.store import Record, RowJob, Store

PAGE = 200
# What is due further ahead than any delay of ours is due: the wall clock was set back. The store promises the same.
FAR_AHEAD = 600.0
_BEHIND_ALL = 2**62


class Intake:
    """`next` gives rows until none is left and none can come back. One reader of the store at a time.

    A turn of a conversation is given only once the one before it has its answer. Rows whose turn has not come are
    passed over and forgotten; the end of the turn before (`settled`) brings them back, one look at the store each. So
    nothing is kept per row or per conversation, and what a killed process left is found by the same rule.
    """

    def __init__(
        self,
        store: Store,
        batch_id: str,
        clock: Clock,
        until: int | None,
        put: Callable[[Record], Awaitable[bool]],
        allowed: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """`put` commits a record; `allowed`: whether one more may start beside so many that are under way."""
        self._store = store
        self._put = put
        self._batch_id = batch_id
        self._clock = clock
        self._until = until
        self._allowed = allowed
        self._ready: deque[RowJob] = deque()
        self._held: set[int] = set()
        """positions of rows that were read and are not intended yet: the store still tells of them as startable"""
        self._after = -1
        self._drained = False
        self._rewound = False
        self._due: float | None = 0.0
        self.busy = 0
        """rows that are being worked on"""
        self._ended: list[tuple[str, int]] = []
        """turns that came to an end, as (conversation, position)"""
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self.quit = asyncio.Event()

    def give_back(self, job: RowJob) -> None:
        """A row that was taken and certainly did not run."""
        if job.position not in self._held:  # else it was read again already
            self._held.add(job.position)
            self._ready.appendleft(job)
        self._changed.set()

    def release(self, job: RowJob) -> None:
        """A row that was taken: its intent is committed, or nobody will work on it. From now on the store tells."""
        self._held.discard(job.position)

    def wait_until(self, due_at: float) -> None:
        """A row waits for a moment (Unix seconds)."""
        self._due = due_at if self._due is None else min(self._due, due_at)
        self._changed.set()

    def taken(self) -> None:
        """A row is being worked on, and may come back."""
        self.busy += 1

    def settled(self, job: RowJob | None = None) -> None:
        """… it is not any more; `job` if its attempt has ended: the next turn of its conversation can follow."""
        self.busy -= 1
        if job is not None and job.conversation is not None:
            self._ended.append((job.conversation, job.position))
        self._changed.set()

    def stop(self) -> None:
        """No more rows."""
        self.quit.set()
        self._changed.set()

    def resume(self) -> None:
        """More rows after all."""
        self.quit.clear()
        self.look_again()

    def look_again(self) -> None:
        """Rows were put back in the store, or may start now: they may lie before those that were read last."""
        self._rewound = True
        self._drained = False
        self._changed.set()

    @property
    def is_done(self) -> bool:
        """No row is left, and none can come back by itself."""
        return self.quit.is_set() or (self._is_empty and not self._ready)

    @property
    def _is_empty(self) -> bool:
        """The store has no more rows, and nothing is under way that could bring one."""
        return self.busy == 0 and self._due is None and self._drained and not self._ended

    async def next(self) -> RowJob | None:
        """The next row, counted as taken; None when it is time to quit or nothing is left."""
        while not self.quit.is_set():
            if not self._ready or self._ended:
                await self._fill()
            if self._ready:
                if not self._allowed(self.busy):
                    return None
                self.taken()
                return self._ready.popleft()
            if self._is_empty:
                self._changed.set()  # the others wait for the same news
                return None
            if not self._ended:  # one may have ended while the store was read
                await self._wait_for_news()
        return None

    async def _fill(self) -> None:
        async with self._reading:
            await self._follow()
            while not self._ready and not self.quit.is_set():
                due = self._due is not None and self._seconds_until(self._due) <= 0
                if self._drained and not due:
                    return
                await self._read_page()

    async def _follow(self) -> None:
        """The next turns of conversations go before rows that have not begun."""
        ended, self._ended = self._ended, []
        if ended:
            found = await asyncio.to_thread(self._store.next_turns, self._batch_id, ended, self._until)
            self._ready.extendleft(reversed(self._hold(await self._judged(found), set())))

    async def _read_page(self) -> None:
        self._due = None
        if self._rewound:
            self._rewound, self._after = False, -1
        held = set(self._held)
        # Behind the last row that may start there can be a million that follow others: they are looked at once.
        jobs, due_at = await asyncio.to_thread(self._read, _BEHIND_ALL if self._drained else self._after)
        if due_at is not None:
            self.wait_until(due_at)  # a row may have begun to wait while the store was read
        fresh = [job.position for job in jobs if job.position > self._after]
        self._after = max(fresh, default=self._after)
        self._drained = len(jobs) < PAGE and not self._rewound
        self._ready.extend(self._hold(await self._judged(jobs), held))

    def _hold(self, jobs: list[RowJob], held: set[int]) -> list[RowJob]:
        """Those that nobody holds, nor held (`held`) when the reading began: what was read of such a row is old."""
        fresh = [job for job in jobs if job.position not in self._held and job.position not in held]
        self._held.update(job.position for job in fresh)
        return fresh

    async def _judged(self, jobs: Sequence[RowJob]) -> list[RowJob]:
        """Those that may start; a turn that can never start ends here, with all that come after it."""
        turns = [(job, judge_turn(job.before)) for job in jobs]
        for job, turn in turns:
            if turn is Turn.BROKEN:
                key = AttemptKey(self._batch_id, job.position, 0)
                await self._put(Break(key, Cause.CONVERSATION_BROKEN.value))
        return [job for job, turn in turns if turn is Turn.NEXT]

    def _read(self, after: int) -> tuple[list[RowJob], float | None]:
        now = self._clock.wall()
        jobs = self._store.startable(self._batch_id, now, after, PAGE, self._until)
        due = self._store.next_due(self._batch_id, self._until)
        # What is due now is among the jobs already.
        return jobs, due if due is None or due > now else now + 1.0

    def _seconds_until(self, due: float) -> float:
        left = due - self._clock.wall()
        return left if 0 < left <= FAR_AHEAD else 0.0

    async def _wait_for_news(self) -> None:
        self._changed.clear()
        timeout = None if self._due is None else self._seconds_until(self._due)
        timer = self._clock.call_later(timeout, self._changed.set) if timeout is not None else None
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
