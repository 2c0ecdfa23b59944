"""Attempts whose end was not seen: lost replies, cut streams, and whatever a killed process left behind.

By run id where there is one; else by the log look-up of the slot's user; and only when the window closes over both is
the row `unknown`, for a person to decide. Nothing is ever sent again from here unless no run can have been started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from rowmill.domain.batch import Outcome, RowMove, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.events import Event, Fact
from rowmill.domain.verdict import Action, Failure, FailureKind, judge_outcome, judge_server_error
from rowmill.engine.attempt import after_verdict, finish_record
from rowmill.ports.store import Attach, GiveUp, OpenAttempt, Refuse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from rowmill.engine.attempt import Lane
    from rowmill.ports.dify import LoggedRun, Recovery, RunDetail
    from rowmill.ports.store import Store


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Gaps double from the first to the longest; only time in which Dify answered is counted."""

    first_gap: float = 0.5
    longest_gap: float = 15.0
    shortest_run_deadline: float = 1200.0
    not_found: float = 60.0
    errored_window: float = 5.0
    after_stop: float = 30.0
    skew: float = 3600.0
    """how wrong the clocks may be: runs of the slot's user that belong to other attempts are known by their ids"""
    send_margin: float = 10.0
    """between the intent and the latest moment at which it can have been sent"""


class _Heard(Enum):
    """What came of one look."""

    ANSWER = "answer"
    ERROR = "error"
    """the server is there and cannot tell"""
    SILENCE = "silence"


class _Left(Enum):
    """Ways to leave without an answer."""

    QUIT = "quit"
    CLOSED = "closed"


class Settled(Enum):
    """What `settle` left."""

    SLOT_FREE = "slot_free"
    SLOT_TAKEN = "slot_taken"
    """the attempt ended as unknown: a late run of the slot's user would still be its own"""
    LAID_DOWN = "laid_down"
    """it is time to quit: the attempt is as open as before"""


class Reconciler:
    """Settles one lost attempt per call of `settle`."""

    def __init__(
        self,
        lane: Lane,
        store: Store,
        recovery: Recovery,
        tell: Callable[[Event], None],
        in_thread: Callable[..., Awaitable[Any]],
        patience: Patience | None = None,
    ) -> None:
        self._lane = lane
        self._store = store
        self._recovery = recovery
        self._tell = tell
        self._in_thread = in_thread
        self._patience = patience or Patience()
        self._hurrying = False

    def hurry(self, *, hurrying: bool = True) -> None:
        """The batch is being stopped: looking goes on although no row starts any more, but not for long. Dify may show
        a stopped run as running for ever."""
        self._hurrying = hurrying

    async def settle(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        """Find out what became of an attempt."""
        run_id = lost.run_id
        if run_id is None:
            found = await self._look_up(lost, failure)
            if found is _Left.QUIT:
                return Settled.LAID_DOWN
            if found is _Left.CLOSED:
                return await self._not_found(lost, failure)
            run_id = str(found)
            await self._lane.recorder.put(Attach(lost.key, run_id, lost.task_id, ahead=lost.ahead))
        if not self._recovery.by_run_id:
            return await self._give_up(lost, Cause.REPLY_LOST, run_id)
        return await self._follow(lost, run_id)

    async def _follow(self, lost: OpenAttempt, run_id: str) -> Settled:
        outcome = await self._poll(run_id)
        if outcome is _Left.QUIT:
            return Settled.LAID_DOWN
        if isinstance(outcome, Cause):
            return await self._give_up(lost, outcome, run_id)
        assert isinstance(outcome, Outcome)
        await self._finish(lost, outcome)
        return Settled.SLOT_FREE

    async def _finish(self, lost: OpenAttempt, outcome: Outcome) -> None:
        lane = self._lane
        lane.versions.heard(lost.key, outcome.workflow_id)
        billed = lost.key.number - lost.job.refused
        verdict = lane.brakes.allow(judge_outcome(outcome, billed, lane.settings.retries))
        if await lane.recorder.put(finish_record(lost.key, outcome, verdict, lane.clock)):
            lane.downloads.collect(lost.key, outcome.outputs)
        self._tell(Event(Fact.FOUND, {"position": lost.key.position, "status": outcome.status.value}))
        after_verdict(lane, verdict, outcome)

    # ── by run id ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _poll(self, run_id: str) -> Outcome | Cause | _Left:
        left = max(self._patience.shortest_run_deadline, self._lane.settings.row_timeout)
        missing, gap = 0.0, self._patience.first_gap
        while left > 0:
            left = min(left, self._patience.after_stop) if self._hurrying else left
            heard, detail = await self._ask(lambda: self._lane.app.run_detail(run_id))
            if detail is not None and detail.outcome is not None:
                return _as_outcome(detail)
            if not await self._rest(gap):
                return _Left.QUIT
            # A server that is away proves nothing and costs no patience; one that cannot tell costs some.
            left -= 0 if heard is _Heard.SILENCE else gap
            missing = missing + gap if heard is _Heard.ANSWER and detail is None else 0.0
            if missing > self._patience.not_found:
                return Cause.NOT_FOUND
            gap = min(2 * gap, self._patience.longest_gap)
        return Cause.NEVER_ENDED

    # ── by the log of the slot's user ───────────────────────────────────────────────────────────────────────────

    async def _look_up(self, lost: OpenAttempt, failure: Failure | None) -> str | _Left:
        if not (self._recovery.by_user and self._recovery.by_run_id):
            return _Left.CLOSED
        left, gap = self._window(lost, failure), self._patience.first_gap
        errors = self._patience.shortest_run_deadline
        while True:
            heard, run_id = await self._ask(lambda: self._find(lost))
            if run_id is not None:
                return str(run_id)
            if (heard is _Heard.ANSWER and left <= 0) or errors <= 0:
                return _Left.CLOSED
            # One last look exactly when the window closes.
            step = min(gap, left) if left > 0 else gap
            if not await self._rest(step):
                return _Left.QUIT
            left -= step if heard is _Heard.ANSWER else 0
            errors -= step if heard is _Heard.ERROR else 0
            gap = min(2 * gap, self._patience.longest_gap)

    def _window(self, lost: OpenAttempt, failure: Failure | None) -> float:
        if failure is not None and failure.kind is FailureKind.ERRORED:
            return self._patience.errored_window
        latest = lost.sent_at + self._patience.send_margin + self._lane.settings.lost_window
        # A clock that was set back must not make us wait for hours.
        return min(max(0.0, latest - self._lane.clock.wall()), self._lane.settings.lost_window)

    async def _find(self, lost: OpenAttempt) -> str | None:
        since = lost.sent_at + lost.ahead - self._patience.skew
        logged = await self._lane.app.runs_of(lost.user, since)
        known = await self._in_thread(self._store.known_runs, self._lane.batch_id, lost.user)
        for run in logged:
            if run.run_id not in known and run.user in (None, lost.user) and await self._is_ours(lost, run):
                return run.run_id
        return None

    async def _is_ours(self, lost: OpenAttempt, run: LoggedRun) -> bool:
        detail = await self._lane.app.run_detail(run.run_id)
        return detail is not None and same_inputs(lost.job.inputs, detail.inputs)

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _not_found(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        if failure is not None and failure.kind is FailureKind.ERRORED:
            return await self._refused_after_all(lost, failure)
        cause = Cause.REPLY_LOST
        if failure is not None and failure.code == "no_run_seen":
            cause = Cause.NOT_STARTED
        return await self._give_up(lost, cause, None)

    async def _refused_after_all(self, lost: OpenAttempt, failure: Failure) -> Settled:
        """The server said 5xx in its own words, and no run turned up: none was started."""
        lane = self._lane
        verdict = judge_server_error(Cause.SERVER_ERROR, lost.key.number - lost.job.refused)
        waits = verdict.action is Action.RETRY
        due_at = lane.clock.wall() + verdict.delay if waits else None
        move = RowMove.WAIT if waits else RowMove.FAIL
        error = failure.message or failure.code
        await lane.recorder.put(Refuse(lost.key, str(verdict.cause), error, move, due_at, counts=True))
        after_verdict(lane, verdict, Outcome(RunStatus.FAILED, error=error))
        return Settled.SLOT_FREE

    async def _give_up(self, lost: OpenAttempt, cause: Cause, run_id: str | None) -> Settled:
        lane = self._lane
        await lane.recorder.put(GiveUp(lost.key, cause.value, run_id))
        self._tell(Event(Fact.GAVE_UP, {"position": lost.key.position, "cause": cause.value}))
        if not lane.share.proven.is_set() and cause is Cause.NOT_STARTED:
            # The very first row met silence: more rows would only meet the same, one window each.
            lane.pause(cause, "")
        lane.intake.settled()
        return Settled.SLOT_TAKEN

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> tuple[_Heard, T | None]:
        """What Dify refuses to tell for good (key revoked, app gone) pauses the batch."""
        try:
            return _Heard.ANSWER, await call()
        except DifyFailureError as error:
            failure = error.failure
            if failure.kind is FailureKind.REFUSED and failure.status in (401, 403):
                cause = Cause.BAD_KEY if failure.status == 401 else Cause.FORBIDDEN  # noqa: PLR2004
                self._lane.pause(cause, failure.message)
            away = failure.kind is FailureKind.NOT_SENT or failure.code == "no_answer"
            return (_Heard.SILENCE if away else _Heard.ERROR), None

    async def _rest(self, seconds: float) -> bool:
        """False when it is time to quit."""
        quit_: asyncio.Event = self._lane.intake.quit
        if self._hurrying:
            await self._lane.clock.sleep(min(seconds, 1.0))
            return True
        if not quit_.is_set():
            await self._lane.clock.sleep_or(seconds, quit_)
        return self._may_go_on(quit_)

    def _may_go_on(self, quit_: asyncio.Event) -> bool:
        return self._hurrying or not quit_.is_set()


def _as_outcome(detail: RunDetail) -> Outcome:
    assert detail.outcome is not None
    return replace(detail.outcome, run_id=detail.run_id)


def same_inputs(sent: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Whether a run's inputs, as Dify shows them, are those of a row. What Dify may change (files, objects) is not
    compared; a run that shows no inputs is judged by its user alone."""
    plain = {k: v for k, v in sent.items() if isinstance(v, (str, int, float)) and k in seen}
    return all(_same(value, seen[key]) for key, value in plain.items())


def _same(ours: str | float, theirs: Any) -> bool:
    if isinstance(theirs, str) and isinstance(ours, str):
        return ours == theirs
    try:
        return float(ours) == float(theirs)
    except (TypeError, ValueError):
        return str(ours) == str(theirs)
