"""A data folder that is older than what Dify has done for it: an old copy was put back (docs/design/pay-once.md).

Rows that were finished since the copy look as if nobody had sent them. Dify's log knows better: the newest of a batch's
runs are then runs that the store has never heard of. Nothing is started from here.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rowmill.domain.batch import AttemptState, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.errors import DifyFailureError, IllegalMoveError
from rowmill.domain.verdict import FailureKind, judge_outcome
from rowmill.engine.attempt import finish_record, slot_of, slot_user
from rowmill.engine.lookup import SKEW, Lookup
from rowmill.ports.store import Again, Attach, AttemptKey, Finish, Intend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from rowmill.domain.batch import Outcome
    from rowmill.engine.attempt import Lane
    from rowmill.ports.dify import LoggedRun, RunDetail
    from rowmill.ports.store import BatchRecord, OpenAttempt, RowJob, Store

# A start must not wait longer for the log than this, in seconds, and asks so often where the server says that it cannot
# tell. A server that is not there is waited for: nothing can be sent to it either.
PATIENCE = 4.0
TRIES = 3
# Lines of the log in one answer; Dify gives no more.
LINES = 100
# Asked for at one time: Dify serves ten connections, and others want some.
AT_ONCE = 4
ROWS = 1000
WEEK = 604_800.0
# Seconds between looks at a run whose line is in the log and that Dify does not show in full.
NOT_SHOWN = (1.0, 4.0, 10.0, 15.0, 30.0, 0.0)

T = TypeVar("T")


@dataclass(slots=True)
class Found:
    """How many runs the store had not heard of, and of how many of them the results were taken over."""

    runs: int = 0
    adopted: int = 0


@dataclass(slots=True)
class _Alike:
    """Runs with the same inputs, the newest first; those that failed are taken last. Which of several rows with these
    inputs gets which of them does not matter."""

    good: deque[tuple[int, LoggedRun]] = field(default_factory=deque)
    failed: deque[tuple[int, LoggedRun]] = field(default_factory=deque)

    def take(self) -> tuple[int, LoggedRun] | None:
        return self.good.popleft() if self.good else self.failed.popleft() if self.failed else None


class Restored:
    """`newer` tells whether the store is older than the log, `adopt` takes over what it can."""

    def __init__(self, lane: Lane, store: Store, batch: BatchRecord, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._lane = lane
        self._store = store
        self._batch = batch
        self._in_thread = in_thread
        self._lookup = Lookup(lane.app, store, batch.id, in_thread)
        self._known: dict[str, set[str]] = {}
        self._unknown: set[int] = set()
        """unknown rows among those that were matched, by position"""

    # ── noticing ────────────────────────────────────────────────────────────────────────────────────────────────

    async def newer(self, left: Sequence[OpenAttempt], busy: set[int], *, waits: bool) -> bool:
        """Whether the log's newest run of this batch is one that the store has not heard of. Not counted: one run on
        each slot that has an attempt whose id is not known, among `left` or (on `busy` slots) given up. `waits` for a
        server that is away."""
        nameless = {one.slot for one in left if one.run_id is None} | (busy - {one.slot for one in left})
        free = next(slot for slot in range(len(busy) + 1) if slot not in busy)
        # First what everybody has run here lately; and where that is much, and nothing of ours, the slot that the next
        # row would have been sent on.
        for user in (None, slot_user(self._batch.id, free)):
            logged = await self._lately(user, waits=waits)
            newest = self._newest(logged, set(nameless))
            if newest is not None:
                return not await self._is_known(newest)
            if len(logged) < LINES:
                return False
        return False

    async def _lately(self, user: str | None, *, waits: bool) -> list[LoggedRun]:
        errors, gap = 0, 0.5
        while errors < TRIES:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._lane.app.runs_of(user, self._since)
            except TimeoutError:
                break
            except DifyFailureError as error:
                errors += not waits or error.failure.kind is not FailureKind.NOT_SENT
            await self._lane.clock.sleep_or(gap, self._lane.intake.quit)
            if self._lane.intake.quit.is_set():
                break
            gap = min(2 * gap, 15.0) if errors == 0 else gap
        return []

    @property
    def _since(self) -> float:
        return self._batch.created_at - SKEW

    def _newest(self, logged: Sequence[LoggedRun], nameless: set[int]) -> LoggedRun | None:
        """The newest run of this batch, but for one of each nameless slot. Older ones tell nothing: what nobody could
        assign once stays unknown for ever, and is no news."""
        for run in logged:
            slot = slot_of(self._batch.id, run.user)
            if slot in nameless:
                nameless.discard(slot)
            elif slot is not None:
                return run
        return None

    async def _is_known(self, run: LoggedRun) -> bool:
        user = run.user or ""
        if user not in self._known:
            self._known[user] = await self._in_thread(self._store.known_runs, self._batch.id, user)
        return run.run_id in self._known[user]

    # ── taking over ─────────────────────────────────────────────────────────────────────────────────────────────

    async def adopt(self) -> Found:
        """Give the results of unknown runs to rows that were not sent, by identical inputs. Where Dify does not answer,
        after some tries, what was taken over by then is what there is."""
        self._known = {}
        found = Found()
        with suppress(DifyFailureError):
            alike = await self._find(found)
            # The oldest first: whoever is killed meanwhile leaves the newest unknown, and the next one notices.
            for _, run, job in sorted(await self._match(alike), key=lambda match: -match[0]):
                found.adopted += await self._take_over(job, run)
        return found

    async def _find(self, found: Found) -> dict[str, _Alike]:
        """All runs of the batch that no attempt has, by their inputs."""
        alike = defaultdict[str, _Alike](_Alike)
        page, seen, full = 0, set[str](), True
        while full:
            page += 1
            logged = await self._surely(self._lane.app.runs_of(None, self._since, page) for _ in range(TRIES))
            # Lines that come in meanwhile push others to the next page: some are seen twice, none is missed.
            ours = [run for run in logged if slot_of(self._batch.id, run.user) is not None and run.run_id not in seen]
            seen.update(run.run_id for run in ours)
            unknown = [run for run in ours if not await self._is_known(run)]
            await self._sort(unknown, alike, found.runs)
            found.runs += len(unknown)
            # A page of runs that are all known is older than the copy.
            full = len(logged) == LINES and (not ours or bool(unknown))
        return alike

    async def _sort(self, runs: Sequence[LoggedRun], alike: dict[str, _Alike], first: int) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def look(run: LoggedRun) -> RunDetail | None:
            detail: RunDetail | None = None
            async with room:
                # Dify writes a run's row later than its line in the log.
                for gap in NOT_SHOWN:
                    detail = await self._surely(self._lane.app.run_detail(run.run_id) for _ in range(TRIES))
                    if detail is not None:
                        break
                    await self._lane.clock.sleep(gap)
            return detail

        details = await asyncio.gather(*map(look, runs))
        for nth, (run, detail) in enumerate(zip(runs, details, strict=True), first):
            key = None if detail is None else self._key(detail.inputs)
            if detail is not None and key is not None:
                failed = detail.outcome is not None and detail.outcome.status in (RunStatus.FAILED, RunStatus.STOPPED)
                (alike[key].failed if failed else alike[key].good).append((nth, run))

    async def _match(self, alike: dict[str, _Alike]) -> list[tuple[int, LoggedRun, RowJob]]:
        """Runs with the rows that they are of; the number tells the order of the runs, 0 is the newest."""
        left = sum(len(runs.good) + len(runs.failed) for runs in alike.values())
        matches: list[tuple[int, LoggedRun, RowJob]] = []
        for rows in (self._unsent(), self._lost()):
            async for job in rows:
                if len(matches) == left:
                    break
                runs = alike.get(self._key(job.inputs) or "")
                match = None if runs is None else runs.take()
                if match is not None:
                    matches.append((*match, job))
        return matches

    async def _unsent(self) -> AsyncIterator[RowJob]:
        after = -1
        while True:
            # Also those that wait for their next try: it may be what was done since.
            now = self._lane.clock.wall() + WEEK
            jobs = await self._in_thread(self._store.startable, self._batch.id, now, after, ROWS, None)
            fresh = [job for job in jobs if job.position > after]
            if not fresh:
                return
            for job in fresh:
                yield job
            after = max(job.position for job in fresh)

    async def _lost(self) -> AsyncIterator[RowJob]:
        """Unknown rows: an attempt that the copy shows as under way may have been put back since, and sent again on
        another slot."""
        after = -1
        while True:
            page = await self._in_thread(self._store.to_check, self._batch.id, after, ROWS)
            if not page:
                return
            for attempt in page:
                if attempt.state is AttemptState.INDETERMINATE and attempt.cause != Cause.KILLS_PROCESS.value:
                    self._unknown.add(attempt.key.position)
                    yield attempt.job
            after = page[-1].key.position

    async def _take_over(self, job: RowJob, run: LoggedRun) -> bool:
        lane = self._lane
        _, outcome = await self._surely(self._lookup.outcome(run.run_id) for _ in range(TRIES))
        key = AttemptKey(self._batch.id, job.position, job.tries + 1)
        slot = slot_of(self._batch.id, run.user)
        assert slot is not None
        put = lane.recorder.put
        if job.position in self._unknown and not await self._free(job):
            return False
        # One after the other without a wait between: they go into one commit.
        begun = put(Intend(key, slot, run.user or "", run.created_at)), put(Attach(key, run.run_id, None))
        if outcome is not None:
            await self._finish(job, key, outcome)
        return (await asyncio.gather(*begun))[0]

    async def _free(self, job: RowJob) -> bool:
        """The unknown row lets go of its lost attempt, which keeps its slot, as with a retry by hand."""
        again, now = Again(None, (job.position,)), self._lane.clock.wall()
        try:
            return bool(await self._in_thread(self._store.retry, self._batch.id, again, now))
        except IllegalMoveError:
            return False  # the batch is being stopped

    async def _finish(self, job: RowJob, key: AttemptKey, outcome: Outcome) -> None:
        lane = self._lane
        verdict = lane.brakes.allow(judge_outcome(outcome, key.number - job.refused, lane.settings.retries))
        record = finish_record(key, outcome, verdict, lane.clock)
        if await lane.recorder.put(record) and isinstance(record, Finish):
            lane.downloads.collect(key, outcome.outputs)

    def _key(self, inputs: dict[str, Any]) -> str | None:
        """The same text for a row's inputs and for those of its run as Dify shows them; None where they cannot be
        compared: files change on their way."""
        values = []
        for spec in self._batch.form.fields:
            value = inputs.get(spec.variable)
            if spec.kind.is_file and value:
                return None
            values.append(_plain(spec.default if value is None else value))
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    async def _surely(self, calls: Iterator[Awaitable[T]]) -> T:
        """The first answer; the last failure if there is none."""
        for gap, call in enumerate(calls, 1):
            try:
                return await call
            except DifyFailureError:
                if gap == TRIES:
                    raise
                await self._lane.clock.sleep(2.0 * gap)
        raise AssertionError


def _plain(value: Any) -> Any:
    """Dify shows numbers as it likes, and what was left empty as nothing or as an empty text."""
    if isinstance(value, (int, float)):
        return float(value)
    return None if value == "" else value
