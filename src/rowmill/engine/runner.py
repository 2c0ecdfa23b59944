"""A sliding window over one batch's rows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowmill.domain.batch import AttemptState
from rowmill.domain.causes import Cause
from rowmill.domain.events import Event, Fact
from rowmill.domain.pace import FixedPace
from rowmill.engine.again import Again
from rowmill.engine.attempt import Attempts, Lane
from rowmill.engine.intake import Intake
from rowmill.engine.permits import Permits
from rowmill.engine.reconcile import Patience, Reconciler
from rowmill.engine.recorder import Recorder
from rowmill.ports.store import Lose, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.verdict import Failure
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp, Recovery
    from rowmill.ports.store import BatchRecord, OpenAttempt, RowJob, SentMarks, Store


# Lost replies that are looked for at one time, for each row in flight: beyond it the window waits. A server that loses
# every reply must not be sent the whole sheet.
SEARCHES_PER_LANE = 2
FEWEST_SEARCHES = 8


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the window closed: `cause` None when every row had its turn or somebody asked for it."""

    cause: Cause | None = None
    detail: str = ""
    asked: bool = False


@dataclass(slots=True)
class Slots:
    """Numbers for slot users; never one whose user may still get a run."""

    busy: set[int] = field(default_factory=set)
    free: list[int] = field(default_factory=list)
    next: int = 0

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        while self.next in self.busy:
            self.next += 1
        self.next += 1
        return self.next - 1

    def give(self, slot: int) -> None:
        self.free.append(slot)


class BatchRunner:
    """Runs the rows of one batch until none is left, or until it is told to stop."""

    def __init__(
        self,
        batch: BatchRecord,
        app: DifyApp,
        recovery: Recovery,
        store: Store,
        sent: SentMarks,
        fence: int,
        clock: Clock,
        tell: Callable[[Event], None],
        *,
        until: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._batch = batch
        self._store = store
        self._clock = clock
        self._tell = tell
        self._ending = Ending()
        self._recorder = Recorder(store, fence, clock, tell)
        self._intake = Intake(store, batch.id, clock, until)
        self._permits = Permits(FixedPace(batch.settings.concurrency), clock, tell)
        self._again = Again(batch, store, clock, self._intake, tell)
        self._lane = Lane(
            batch.id, app, batch.settings, self._recorder, self._permits, self._intake, sent, clock,
            self._pause, self._lost, self._again.versions,
        )  # fmt: skip
        self._attempts = Attempts(self._lane)
        self._reconciler = Reconciler(self._lane, store, recovery, tell, asyncio.to_thread, patience)
        self._slots = Slots()
        self._searches: set[asyncio.Task[None]] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._trouble: BaseException | None = None

    def drain(self) -> None:
        """No new rows; what is in flight is waited for."""
        self._ending = self._ending if self._ending.cause else Ending(asked=True)
        self._intake.stop()
        self._permits.wake()

    def abandon(self) -> None:
        """Stop listening at once. Runs go on at Dify; the next start looks for what became of them."""
        self.drain()
        self._recorder.give_up()
        self._cancel()

    def _cancel(self) -> None:
        for task in (*self._workers, *self._searches):
            task.cancel()

    async def run(self) -> Ending:
        """Until the end of the batch, or of the wish to go on."""
        try:
            await self._again.begin()
            await self._recover()
            self._hire()
            while self._workers:
                # Workers hire others as the window opens: wait for those that there are.
                await asyncio.wait(set(self._workers), return_when=asyncio.FIRST_COMPLETED)
            self._intake.stop()
            if self._searches:
                await asyncio.wait(self._searches)
            if self._trouble is not None:
                raise self._trouble
        finally:
            self._intake.stop()
            self._cancel()
            await asyncio.gather(*self._workers, *self._searches, return_exceptions=True)
            await self._recorder.close()
            await self._again.finish()
        return self._ending

    def _pause(self, cause: Cause, detail: str) -> None:
        if self._ending.cause is None:
            self._ending = Ending(cause, detail[:500])
            self._tell(Event(Fact.PAUSING, {"cause": cause.value, "detail": detail[:500]}))
        self._intake.stop()
        self._permits.wake()

    # ── what a former process left ──────────────────────────────────────────────────────────────────────────────

    async def _recover(self) -> None:
        left = await asyncio.to_thread(self._store.open_attempts, self._batch.id)
        self._slots.busy = await asyncio.to_thread(self._store.busy_slots, self._batch.id)
        if left:
            self._tell(Event(Fact.RECOVERING, {"attempts": len(left)}))
        lost = [attempt for attempt in left if not await self._never_left(attempt)]
        # Every intent is judged now: nothing of what a former process marked is needed any more.
        self._lane.sent.begin()
        for attempt in lost:
            self._intake.taken()
            self._search(attempt, None)

    async def _never_left(self, attempt: OpenAttempt) -> bool:
        """Judge an intent by the marks, once: what is not certainly unsent is lost from now on, whatever comes next."""
        if attempt.state is not AttemptState.INTENT:
            return False
        if self._lane.sent.was_sent(attempt.slot, attempt.key) is False:
            await self._recorder.put(Refuse(attempt.key, "never_sent"))
            return True
        await self._recorder.put(Lose(attempt.key, Cause.REPLY_LOST.value))
        return False

    # ── workers: one per lane of the window ─────────────────────────────────────────────────────────────────────

    def _hire(self) -> None:
        """As many workers as the window can use: one until the first row was accepted."""
        wanted = 2 * self._batch.settings.concurrency if self._permits.pace.proven else 1
        while len(self._workers) < wanted:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._retire)

    def _retire(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and worker.exception() is not None:
            self._trouble = self._trouble or worker.exception()
            self.abandon()

    async def _work(self) -> None:
        slot: int | None = None
        while await self._few_searches() and (job := await self._intake.next()) is not None:
            slot = self._slots.take() if slot is None else slot
            if not await self._one(job, slot):
                slot = None
            if self._permits.pace.proven:
                self._hire()
        if slot is not None:
            self._slots.give(slot)

    async def _one(self, job: RowJob, slot: int) -> bool:
        # The window opens as soon as the first row is accepted, not only when it has ended.
        watch = None if self._permits.pace.proven else asyncio.create_task(self._hire_when_proven())
        try:
            return await self._attempts.run(job, slot)
        finally:
            if watch is not None:
                watch.cancel()

    async def _hire_when_proven(self) -> None:
        await self._permits.proven.wait()
        self._hire()

    async def _few_searches(self) -> bool:
        most = max(FEWEST_SEARCHES, SEARCHES_PER_LANE * self._batch.settings.concurrency)
        while len(self._searches) >= most:
            await asyncio.wait(set(self._searches), return_when=asyncio.FIRST_COMPLETED)
        return True

    # ── lost replies ────────────────────────────────────────────────────────────────────────────────────────────

    def _lost(self, attempt: OpenAttempt, failure: Failure) -> None:
        if attempt.state is not AttemptState.ATTACHED:
            self._tell(Event(Fact.LOST, {"position": attempt.key.position}))
        self._search(attempt, failure)

    def _search(self, attempt: OpenAttempt, failure: Failure | None) -> None:
        self._slots.busy.add(attempt.slot)
        search = asyncio.create_task(self._settle(attempt, failure))
        self._searches.add(search)
        search.add_done_callback(self._end_search)

    async def _settle(self, attempt: OpenAttempt, failure: Failure | None) -> None:
        if await self._reconciler.settle(attempt, failure):
            self._slots.busy.discard(attempt.slot)
            self._slots.give(attempt.slot)

    def _end_search(self, search: asyncio.Task[None]) -> None:
        self._searches.discard(search)
        with suppress(asyncio.CancelledError):
            if search.exception() is not None:
                self._trouble = self._trouble or search.exception()
                self.abandon()
