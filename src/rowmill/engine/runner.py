"""A sliding window over one batch's rows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowmill.domain.batch import AttemptState, BatchState
from rowmill.domain.brakes import Brake, Halt
from rowmill.domain.causes import Cause
from rowmill.domain.events import Event, Fact
from rowmill.engine.again import Again
from rowmill.engine.attempt import Attempts, Lane
from rowmill.engine.downloads import Downloads
from rowmill.engine.handling import MOST_DEATHS, handled
from rowmill.engine.intake import Intake
from rowmill.engine.reconcile import Reconciler, Settled
from rowmill.engine.restored import Restored
from rowmill.engine.uploads import Uploads
from rowmill.ports.store import GiveUp, Lose, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowmill.domain.brakes import Brakes, Reason
    from rowmill.domain.verdict import Failure
    from rowmill.engine.permits import Share
    from rowmill.engine.reconcile import Patience
    from rowmill.engine.recorder import Recorder
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp, Recovery
    from rowmill.ports.files import Shelf
    from rowmill.ports.sent import SentMarks
    from rowmill.ports.store import AttemptKey, BatchRecord, OpenAttempt, RowJob, Store


# Lost replies that are looked for at one time, for each row in flight: beyond it the window waits. A server that loses
# every reply must not be sent the whole sheet.
SEARCHES_PER_LANE = 2
FEWEST_SEARCHES = 8
# A batch that was made less than so many seconds ago, and never started, cannot have been copied since.
FRESH = 60.0
# Reasons that are no cause of failure: why a batch stands still although nothing is wrong.
HELD = "held"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the window closed: `cause` None when every row had its turn or somebody asked for it."""

    cause: Reason | None = None
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
        """It may serve again. One that was busy before its turn came is not kept beside: its turn will come."""
        self.busy.discard(slot)
        if slot < self.next:
            self.free.append(slot)


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner works with. `until`: only rows below this position (a sample)."""

    app: DifyApp
    recovery: Recovery
    store: Store
    sent: SentMarks
    recorder: Recorder
    share: Share
    brakes: Brakes
    clock: Clock
    tell: Callable[[Event], None]
    wish_changed: Callable[[Ending], None]
    """the runner itself wants to pause"""
    until: int | None = None
    patience: Patience | None = None
    shelf: Shelf | None = None


class BatchRunner:
    """Runs the rows of one batch until none is left, or until it is told to stop."""

    def __init__(self, batch: BatchRecord, work: Work) -> None:
        self._batch = batch
        self._work_with = work
        self._clock = work.clock
        self._tell = work.tell
        self._share = work.share
        self._recorder = work.recorder
        self.ending = Ending()
        self.held = False
        """whether attempts were left that only a new runner can take up again"""
        self._wish = BatchState.RUNNING
        self._intake = Intake(work.store, batch.id, work.clock, work.until, work.recorder.put, work.brakes.may_start)
        self._again = Again(batch, work.store, work.clock, self._intake, work.tell)
        self._lane = Lane(
            batch.id, work.app, batch.settings, work.recorder, work.share, self._intake, work.sent, work.clock,
            work.brakes, self._pause, self._lost,
            Uploads(work.app, batch.app.id, work.store, work.shelf, work.clock),
            Downloads(work.app, work.store, work.shelf, work.clock, work.tell), self._again.versions,
        )  # fmt: skip
        self._attempts = Attempts(self._lane)
        self._reconciler = Reconciler(
            self._lane, work.store, work.recovery, work.tell, asyncio.to_thread, work.patience
        )
        self._slots = Slots()
        self._deadly: set[int] = set()
        """rows that have ended several processes"""
        self._searches: set[asyncio.Task[None]] = set()
        self._adoption: asyncio.Task[None] | None = None
        """runs that the store has not heard of are being taken over: no row starts before that is done"""
        self._searched: dict[AttemptKey, OpenAttempt] = {}
        self._laid_down: list[tuple[OpenAttempt, Failure | None]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._trouble: BaseException | None = None

    @property
    def is_sample(self) -> bool:
        return self._work_with.until is not None

    # ── wishes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def obey(self, state: BatchState, reason: str | None) -> None:
        """Somebody's wish, as the batch's state tells it. The last one counts; the same one again changes nothing."""
        holds = state is BatchState.PAUSING and reason == HELD and self._work_with.recovery.by_run_id
        if state is self._wish and holds is self.held:
            return
        self._wish = state
        match state:
            case BatchState.RUNNING:
                self._go_on()
            case BatchState.PAUSING if holds:
                self.hold()
            case BatchState.STOPPING:
                self._stop()
            case _:
                self.drain()

    def drain(self) -> None:
        """No new rows; what is in flight is waited for."""
        self.ending = self.ending if self.ending.cause else Ending(asked=True)
        self._close_intake()

    def hold(self) -> None:
        """Nothing is listened to any more; the runs go on at Dify and are looked up when the batch goes on."""
        self.held = True
        self.drain()
        self._cancel()

    def abandon(self) -> None:
        """Leave at once, whatever the database does."""
        self.drain()
        self._again.abandon()
        self._recorder.give_up()
        self._cancel()

    def _stop(self) -> None:
        self.drain()
        self._reconciler.hurry()
        self._attempts.stop()
        for attempt in self._searched.values():
            self._attempts.stop_run(attempt.task_id, attempt.user)

    def _go_on(self) -> None:
        self.ending = Ending()
        if self.held:
            return  # a new runner takes the batch up
        self._attempts.go_on()
        self._reconciler.hurry(hurrying=False)
        self._intake.resume()
        laid_down, self._laid_down = self._laid_down, []
        for attempt, failure in laid_down:
            self._search(attempt, failure)
        self._hire()

    def out_of_time(self) -> None:
        """The batch has run for as long as it may."""
        self._pause(Brake.TIME, "")

    def look_again(self) -> None:
        """Rows were put back by somebody: they may lie before those that were read last."""
        self._intake.look_again()
        self._hire()

    def _pause(self, cause: Reason, detail: str) -> None:
        if self.ending.cause is None:
            self.ending = Ending(cause, detail[:500])
            self._tell(Event(Fact.PAUSING, {"cause": cause.value, "detail": detail[:500]}))
            self._wish = BatchState.PAUSING
            self._work_with.wish_changed(self.ending)
        self._close_intake()

    def _close_intake(self) -> None:
        self._intake.stop()
        self._share.wake()

    def _cancel(self) -> None:
        for task in (*self._workers, *self._searches):
            task.cancel()
        self._lane.downloads.stop()

    # ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self) -> None:
        """Judge what a former process left, and begin to look for what may have been started."""
        await self._again.begin()
        left = await asyncio.to_thread(self._work_with.store.open_attempts, self._batch.id)
        self._slots.busy = await asyncio.to_thread(self._work_with.store.busy_slots, self._batch.id)
        if left:
            self._tell(Event(Fact.RECOVERING, {"attempts": len(left)}))
        self._deadly = await self._deadly_rows()
        lost = [attempt for attempt in left if not await self._never_left(attempt) and not await self._left(attempt)]
        # Every intent is judged now: of what a former process marked only the moments of lost ones are still needed.
        self._lane.sent.begin([(attempt.slot, attempt.key) for attempt in lost])
        await self._compare_with_log(left)
        for attempt in lost:
            self._intake.taken()
            self._search(attempt, None)
        await self._lane.downloads.resume(self._batch.id)

    async def run(self) -> None:
        """Until nothing is under way and no row may start. May be called again after a wish to go on."""
        self._hire()
        while self._workers or self._searches:
            # Workers hire others as the window opens: wait for those that there are.
            await asyncio.wait({*self._workers, *self._searches}, return_when=asyncio.FIRST_COMPLETED)
        await self._lane.downloads.done()
        if self._trouble is not None:
            raise self._trouble
        await self._again.settle(to_the_end=self._is_at_its_end)

    @property
    def _is_at_its_end(self) -> bool:
        """Every row that may start has had its turn, and nobody wished the batch to end before that."""
        return not (self.is_sample or self._intake.quit.is_set())

    async def close(self) -> None:
        """Leave what is still under way."""
        self._intake.stop()
        self._cancel()
        await asyncio.gather(*self._workers, *self._searches, return_exceptions=True)
        await self._lane.downloads.stopped()
        await self._attempts.close()
        await self._again.close()

    async def _never_left(self, attempt: OpenAttempt) -> bool:
        """Judge an intent by the marks, once: what is not certainly unsent is lost from now on, whatever comes next."""
        if attempt.state is not AttemptState.INTENT:
            return False
        if self._lane.sent.was_sent(attempt.slot, attempt.key) is False:
            await self._recorder.put(Refuse(attempt.key, "never_sent"))
            return True
        await self._recorder.put(Lose(attempt.key, Cause.REPLY_LOST.value))
        return False

    # ── an old copy of the data folder ──────────────────────────────────────────────────────────────────────────

    async def _compare_with_log(self, left: Sequence[OpenAttempt]) -> None:
        """Before anything is sent: has Dify done more for this batch than the store knows? Then nothing is, until a
        person starts the batch once more."""
        batch, recovery = self._batch, self._work_with.recovery
        never_sent = batch.started_at is None and self._clock.wall() - batch.created_at < FRESH
        if never_sent or not (recovery.by_user and recovery.by_run_id):
            return
        restored = Restored(self._lane, self._work_with.store, batch, asyncio.to_thread)
        confirmed = batch.state is BatchState.PAUSED and batch.reason == Halt.RESTORED.value
        # One that is being stopped may still be wished to go on, and is looked at as well; but not waited for.
        waits = batch.state is not BatchState.STOPPING
        if not confirmed and not await restored.newer(left, set(self._slots.busy), waits=waits):
            return
        if not confirmed:
            self.ending = Ending(Halt.RESTORED)
            self._close_intake()
        self._tell(Event(Fact.RESTORED))
        self._adoption = asyncio.create_task(self._adopt(restored))
        self._searches.add(self._adoption)
        self._adoption.add_done_callback(self._end_search)

    async def _adopt(self, restored: Restored) -> None:
        await asyncio.sleep(0)  # the others begin
        others = self._searches - {self._adoption}
        if others:
            await asyncio.wait(others)
        found = await restored.adopt()
        self._tell(Event(Fact.ADOPTED, {"runs": found.runs, "rows": found.adopted}))
        if self.ending.cause is Halt.RESTORED:
            self.ending = Ending(Halt.RESTORED, f"found={found.runs} adopted={found.adopted}")

    # ── rows that kill their process ────────────────────────────────────────────────────────────────────────────

    async def _deadly_rows(self) -> set[int]:
        sent, store = self._lane.sent, self._work_with.store
        for position in sent.deaths():
            row = await asyncio.to_thread(store.row, self._batch.id, position)
            if row is None or row.state.is_done:
                sent.forget(position)
        return {position for position, deaths in sent.deaths().items() if deaths >= MOST_DEATHS}

    async def _left(self, attempt: OpenAttempt) -> bool:
        """Whether it was left alone: looking for it means to read what has ended a process each time. It may have been
        paid for, so a person decides."""
        position, cause = attempt.key.position, Cause.KILLS_PROCESS.value
        if position not in self._deadly:
            return False
        await self._recorder.put(GiveUp(attempt.key, cause, attempt.run_id))
        self._tell(Event(Fact.QUARANTINED, {"position": position}))
        self._lane.sent.forget(position)
        return True

    async def _quarantine(self, job: RowJob, slot: int) -> bool:
        self._deadly.remove(job.position)
        await self._attempts.quarantine(job, slot)
        self._tell(Event(Fact.QUARANTINED, {"position": job.position}))
        self._lane.sent.forget(job.position)
        return True

    # ── workers: one per lane of the window ─────────────────────────────────────────────────────────────────────

    def _hire(self) -> None:
        """As many workers as the window can use: one until the first row was accepted."""
        wanted = 2 * self._share.pace.limit if self._share.proven.is_set() else 1
        while len(self._workers) < wanted and not self._intake.is_done:
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
        try:
            while await self._few_searches() and (job := await self._intake.next()) is not None:
                slot = self._slots.take() if slot is None else slot
                taken, slot = slot, None
                if await self._one(job, taken):
                    slot = taken
                if self._share.proven.is_set():
                    self._hire()
                if len(self._workers) > 2 * self._share.pace.limit + 1:
                    return  # the window has shrunk
        finally:
            if slot is not None:
                self._slots.give(slot)
        if self._intake.busy == 0 and not self._lane.brakes.may_start(0):
            self._pause(Brake.ROWS, "")

    async def _one(self, job: RowJob, slot: int) -> bool:
        # The window opens as soon as the first row is accepted, not only when it has ended.
        watch = None if self._share.proven.is_set() else asyncio.create_task(self._hire_when_proven())
        try:
            if job.position in self._deadly:
                return await self._quarantine(job, slot)
            return await handled(self._lane.sent, job.position, self._attempts.run(job, slot))
        finally:
            if watch is not None:
                watch.cancel()

    async def _hire_when_proven(self) -> None:
        await self._share.proven.wait()
        self._hire()

    async def _few_searches(self) -> bool:
        if self._adoption is not None:
            await asyncio.wait({self._adoption})
        most = max(FEWEST_SEARCHES, SEARCHES_PER_LANE * self._share.pace.limit)
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
        self._searched[attempt.key] = attempt
        try:
            work = self._reconciler.settle(attempt, failure)
            settled = await handled(self._lane.sent, attempt.key.position, work)
        finally:
            del self._searched[attempt.key]
        if settled is Settled.LAID_DOWN:
            self._laid_down.append((attempt, failure))
        elif settled is Settled.SLOT_FREE:
            self._slots.give(attempt.slot)

    def _end_search(self, search: asyncio.Task[None]) -> None:
        self._searches.discard(search)
        with suppress(asyncio.CancelledError):
            if search.exception() is not None:
                self._trouble = self._trouble or search.exception()
                self.abandon()
