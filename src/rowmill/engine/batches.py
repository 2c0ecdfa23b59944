"""Many batches at once: who shares what, whose wish is obeyed, and what a batch's state is when its window closes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rowmill.domain.batch import BatchMove, BatchState
from rowmill.domain.brakes import Brakes, Limits
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.domain.form import Mode
from rowmill.domain.pace import Pace, PaceLimits, ResponseMode, ServerPace
from rowmill.engine.permits import Permits, Share
from rowmill.engine.recorder import Recorder
from rowmill.engine.runner import BatchRunner, Ending, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.batch import Settings
    from rowmill.domain.events import Event
    from rowmill.domain.pace import Why
    from rowmill.engine.reconcile import Patience
    from rowmill.ports.clock import Clock, Timer
    from rowmill.ports.dify import DifyApp, Recovery
    from rowmill.ports.files import Shelf
    from rowmill.ports.sent import SentMarks
    from rowmill.ports.store import BatchRecord, Store, Wish

# Reasons that are no cause of failure: why a batch stands still although nothing is wrong.
INTERRUPTED = "interrupted"
SAMPLE = "sample"

# Seconds between two looks at what is wished for: a wish reaches the rows in flight within one second.
LOOK_EVERY = 0.5


@dataclass(slots=True)
class _Entry:
    """A batch that is being run here."""

    runner: BatchRunner
    unwritten: int = 0
    """pauses of the runner's own that the store does not know yet"""
    touched: int | None = None


@dataclass(slots=True)
class Engine:
    """One process that runs batches of one store. `fence` from Store.take_over; `open_marks` opens a batch's marks.
    `server_cap`: runs at once at one server over all its apps; None for no limit."""

    store: Store
    open_marks: Callable[[str], SentMarks]
    fence: int
    clock: Clock
    patience: Patience | None = None
    shelf: Shelf | None = None
    """where rows' files are kept; without it no file is uploaded or fetched"""
    server_cap: int | None = None
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _permits: dict[str, Permits] = field(default_factory=dict)
    _servers: dict[str, ServerPace] = field(default_factory=dict)
    _tells: list[Callable[[Event], None]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _recorder: Recorder | None = None
    _watching: asyncio.Task[None] | None = None
    _wishes: asyncio.Lock | None = None
    _users: int = 0
    _draining: bool = False

    def drain(self) -> None:
        """No new rows in any batch; also where one is only about to start."""
        self._draining = True
        for entry in self._entries.values():
            entry.runner.drain()

    def abandon(self) -> None:
        """Stop listening at once; see BatchRunner.abandon."""
        self.drain()
        for entry in self._entries.values():
            entry.runner.abandon()

    def why(self, app_id: str) -> Why | None:
        """Why the pace of an app is what it is, while one of its batches runs."""
        permits = self._permits.get(app_id)
        return None if permits is None else permits.pace.why(self.clock.monotonic())

    async def look(self) -> None:
        """Obey the wishes in the store now, and not only at the next regular look."""
        if self._wishes is None:
            return
        async with self._wishes:
            wishes = await asyncio.to_thread(self.store.wishes, list(self._entries))
            for batch_id, wish in wishes.items():
                self._obey(batch_id, wish)

    def _obey(self, batch_id: str, wish: Wish) -> None:
        entry = self._entries.get(batch_id)
        if entry is None or entry.unwritten:
            return  # what the runner itself has just decided is newer
        entry.runner.obey(wish.state, wish.reason)
        if entry.touched is not None and wish.touched != entry.touched:
            entry.runner.look_again()
        entry.touched = wish.touched

    async def run(
        self,
        batch: BatchRecord,
        app: DifyApp,
        recovery: Recovery,
        tell: Callable[[Event], None],
        *,
        until: int | None = None,
    ) -> tuple[BatchState, Ending]:
        """Run a batch to its end, or to its pause. `until`: only rows below this position (a sample). A batch that is
        being stopped is only brought to its end."""
        if batch.state is not BatchState.STOPPING:
            await asyncio.to_thread(self.store.move_batch, batch.id, BatchMove.START, at=self.clock.wall())
        self._enter(tell)
        share = self._permits_of(batch, recovery).join(batch.settings.priority, _most_of(batch.settings), tell)
        try:
            return await self._run(batch, app, recovery, tell, share, until)
        finally:
            share.leave()
            self._forget_idle()
            await self._exit(tell)

    async def _run(
        self,
        batch: BatchRecord,
        app: DifyApp,
        recovery: Recovery,
        tell: Callable[[Event], None],
        share: Share,
        until: int | None,
    ) -> tuple[BatchState, Ending]:
        assert self._recorder is not None
        brakes = await asyncio.to_thread(self._brakes, batch)
        state: BatchState | None = None
        while state is None:
            sent = self.open_marks(batch.id)
            work = Work(
                app, recovery, self.store, sent, self._recorder, share, brakes, self.clock, tell,
                lambda ending: self._wish_to_pause(batch.id, ending), until, self.patience, self.shelf,
            )  # fmt: skip
            runner = BatchRunner(batch, work)
            try:
                state = await self._until_laid_down(batch, runner, brakes)
            finally:
                sent.close()
        return state, runner.ending

    async def _until_laid_down(self, batch: BatchRecord, runner: BatchRunner, brakes: Brakes) -> BatchState | None:
        """None where the batch is to go on with a new runner."""
        self._entries[batch.id] = _Entry(runner)
        if self._draining:
            runner.drain()
        timer = self._time_limit(runner, brakes)
        try:
            await runner.recover()
            await self.look()
            for _ in range(2):
                await runner.run()
                state = await self._lay_down(batch.id, runner)
                if state is not None or runner.held:
                    return state
                await self.look()
                runner.look_again()
        except FencedError:
            raise  # the batch is another runner's by now
        except BaseException:
            # The rows tell the truth; the batch says only that nobody is working on it.
            with suppress(StoreError):
                await asyncio.to_thread(self._close, batch.id, Ending(asked=True))
            raise
        else:
            return None  # rows are left that this runner does not have: a new one finds them as after a crash
        finally:
            del self._entries[batch.id]
            if timer is not None:
                timer.cancel()
            await runner.close()

    async def _lay_down(self, batch_id: str, runner: BatchRunner) -> BatchState | None:
        """The batch's state, or None if by now it is wished that it goes on."""
        assert self._wishes is not None
        async with self._wishes:
            return await asyncio.to_thread(self._close, batch_id, runner.ending)

    def _close(self, batch_id: str, ending: Ending) -> BatchState | None:
        sample = not ending.asked and self._is_sample(batch_id)
        reason = ending.cause.value if ending.cause else (SAMPLE if sample else INTERRUPTED)
        wants_to_end = ending.cause is not None or ending.asked or sample
        at, detail = self.clock.wall(), ending.detail or None
        return self.store.close_batch(
            batch_id, wants_to_end=wants_to_end, reason=reason, detail=detail, at=at, fence=self.fence
        )

    def _is_sample(self, batch_id: str) -> bool:
        entry = self._entries.get(batch_id)
        return entry is not None and entry.runner.is_sample

    # ── wishes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _wish_to_pause(self, batch_id: str, ending: Ending) -> None:
        """A runner pauses by itself: everybody shall see it at once, not only when the last row has ended."""
        entry = self._entries[batch_id]
        entry.unwritten += 1
        task = asyncio.create_task(self._write_pause(batch_id, entry, ending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_pause(self, batch_id: str, entry: _Entry, ending: Ending) -> None:
        assert self._wishes is not None
        assert ending.cause is not None
        try:
            async with self._wishes:
                # A disk that is full tells at the end as well; and where somebody stops the batch, that counts.
                with suppress(StoreError, IllegalMoveError):
                    await asyncio.to_thread(self._pause_if_running, batch_id, ending)
        finally:
            entry.unwritten -= 1

    def _pause_if_running(self, batch_id: str, ending: Ending) -> None:
        wish = self.store.wishes([batch_id]).get(batch_id)
        if ending.cause is not None and wish is not None and wish.state is BatchState.RUNNING:
            reason, detail = ending.cause.value, ending.detail or None
            self.store.move_batch(batch_id, BatchMove.PAUSE, reason=reason, detail=detail, at=self.clock.wall())

    async def _watch(self) -> None:
        while True:
            await self.clock.sleep(LOOK_EVERY)
            with suppress(StoreError):  # tried again at the next look
                await self.look()

    # ── what batches share ──────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, tell: Callable[[Event], None]) -> None:
        self._users += 1
        self._tells.append(tell)
        if self._recorder is None:
            self._recorder = Recorder(self.store, self.fence, self.clock, self._tell_all)
            self._wishes = asyncio.Lock()
            self._watching = asyncio.create_task(self._watch(), name="wishes")

    async def _exit(self, tell: Callable[[Event], None]) -> None:
        self._users -= 1
        self._tells.remove(tell)
        if self._users or self._recorder is None:
            return
        recorder, watching = self._recorder, self._watching
        self._recorder = self._watching = None
        self._draining = False
        if watching is not None:
            watching.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await recorder.close()

    def _tell_all(self, event: Event) -> None:
        for tell in self._tells:
            tell(event)

    def _permits_of(self, batch: BatchRecord, recovery: Recovery) -> Permits:
        permits = self._permits.get(batch.app.id)
        if permits is None:
            parts = urlsplit(batch.app.base_url)
            server = self._servers.setdefault(f"{parts.scheme}://{parts.netloc}", ServerPace(self.server_cap))
            pace = Pace(pace_limits(batch.settings, batch.app.mode, recovery), server)
            permits = self._permits[batch.app.id] = Permits(pace, self.clock)
        return permits

    def _forget_idle(self) -> None:
        """What an idle app's pace has learned is old by the time it is needed again; and settings may have changed."""
        for app_id in [app_id for app_id, permits in self._permits.items() if permits.is_idle]:
            del self._permits[app_id]

    def _brakes(self, batch: BatchRecord) -> Brakes:
        spent = self.store.spent(batch.id, with_price=batch.settings.max_price is not None)
        return Brakes(Limits.of(batch.settings), spent)

    def _time_limit(self, runner: BatchRunner, brakes: Brakes) -> Timer | None:
        left = brakes.seconds_left(0.0)
        return None if left is None else self.clock.call_later(left, runner.out_of_time)


def _most_of(settings: Settings) -> int:
    return settings.most if settings.concurrency is None else settings.concurrency


def pace_limits(settings: Settings, mode: Mode, recovery: Recovery) -> PaceLimits:
    """What the pace of an app may do, from the settings of the batch that starts it. Blocking runs can only be found
    again by their user, from the moment when they start."""
    return PaceLimits(
        most=settings.most,
        fixed=settings.concurrency,
        per_minute=settings.per_minute,
        min_gap=settings.min_gap,
        mode=ResponseMode(settings.response_mode),
        blocking_ok=mode is Mode.WORKFLOW and recovery.is_full,
    )
