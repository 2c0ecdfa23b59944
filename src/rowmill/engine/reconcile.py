"""Attempts whose end was not seen: lost replies, cut streams, and whatever a killed process left behind.

By run id where there is one; else by what Dify shows of the slot's user, in its log or among its conversations; and
only when the window closes over both is the row `unknown`, for a person to decide. Nothing is ever sent again from here
unless no run can have been started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from rowmill.domain.batch import Outcome, RowMove, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.events import Event, Fact
from rowmill.domain.verdict import Action, Failure, FailureKind, judge_outcome, judge_server_error
from rowmill.engine.attempt import after_verdict, finish_record
from rowmill.engine.lookup import Doubt, Lookup
from rowmill.ports.store import Attach, Finish, GiveUp, OpenAttempt, Refuse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from rowmill.engine.attempt import Lane
    from rowmill.ports.dify import Recovery
    from rowmill.ports.store import AttemptKey, Store


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
    """nothing was found: the log was read to the end of the window"""
    IN_DOUBT = "in_doubt"
    """the log could not be read, or shows a run that may be this attempt's and that Dify does not show in full"""


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
        self._lookup = Lookup(lane.app, store, lane.batch_id, in_thread)
        self._recovery = recovery
        self._tell = tell
        self._patience = patience or Patience()
        self._hurrying = False
        self._found: dict[AttemptKey, OpenAttempt] = {}
        """attempts whose ids were found here: what has them is not looked for a second time"""

    def hurry(self, *, hurrying: bool = True) -> None:
        """The batch is being stopped: looking goes on although no row starts any more, but not for long. Dify may show
        a stopped run as running for ever."""
        self._hurrying = hurrying

    async def settle(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        """Find out what became of an attempt. One that was laid down may be given once more, as it was."""
        settled = await self._settle(self._found.get(lost.key, lost), failure)
        if settled is not Settled.LAID_DOWN:
            self._found.pop(lost.key, None)
        return settled

    async def _settle(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        if lost.run_id is not None and self._recovery.by_run_id:
            return await self._follow(lost, lost.run_id)
        if self._recovery.by_message:
            return await self._listen_again(lost, failure)
        if lost.run_id is not None or not (self._recovery.by_user and self._recovery.by_run_id):
            return await self._not_found(lost, failure)
        found = await self._look_up(lambda: self._lookup.run_id(lost), self._window(lost, failure))
        if isinstance(found, _Left):
            return await self._in_vain(lost, failure, found)
        await self._attach(replace(lost, run_id=found))
        return await self._follow(lost, found)

    async def _attach(self, found: OpenAttempt) -> None:
        ids = (found.message_id, found.conversation_id)
        await self._lane.recorder.put(Attach(found.key, found.run_id, found.task_id, None, found.ahead, *ids))
        self._found[found.key] = found

    async def _follow(self, lost: OpenAttempt, run_id: str) -> Settled:
        return await self._end(lost, await self._poll(run_id), run_id)

    async def _end(self, lost: OpenAttempt, found: Outcome | Cause | _Left, known: str) -> Settled:
        if found is _Left.QUIT:
            return Settled.LAID_DOWN
        if isinstance(found, Outcome):
            await self._finish(lost, found)
            return Settled.SLOT_FREE
        return await self._give_up(lost, found if isinstance(found, Cause) else Cause.REPLY_LOST, known)

    async def _finish(self, lost: OpenAttempt, outcome: Outcome) -> None:
        lane = self._lane
        lane.versions.heard(lost.key, outcome.workflow_id)
        billed = lost.key.number - lost.job.refused
        verdict = lane.brakes.allow(judge_outcome(outcome, billed, lane.settings.retries))
        record = finish_record(lost.key, outcome, verdict, lane.clock)
        if await lane.recorder.put(record) and isinstance(record, Finish):
            lane.downloads.collect(lost.key, outcome.outputs)
        self._tell(Event(Fact.FOUND, {"position": lost.key.position, "status": outcome.status.value}))
        after_verdict(lane, lost.job, verdict, outcome)

    # ── by run id ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _poll(self, run_id: str) -> Outcome | Cause | _Left:
        left = self._run_deadline
        missing, gap = 0.0, self._patience.first_gap
        while left > 0:
            left = min(left, self._patience.after_stop) if self._hurrying else left
            heard, detail = await self._ask(lambda: self._lookup.outcome(run_id))
            if detail is not None and detail[1] is not None:
                return detail[1]
            is_missing = detail is not None and not detail[0]
            if is_missing and missing >= self._patience.not_found:
                return Cause.NOT_FOUND
            if not await self._rest(gap):
                return _Left.QUIT
            # A server that is away proves nothing and costs no patience; one that cannot tell costs some.
            left -= 0 if heard is _Heard.SILENCE else gap
            missing = missing + gap if is_missing else 0.0
            gap = min(2 * gap, self._patience.longest_gap)
        return Cause.NEVER_ENDED

    @property
    def _run_deadline(self) -> float:
        return max(self._patience.shortest_run_deadline, self._lane.settings.row_timeout)

    # ── by what is known of the slot's user ─────────────────────────────────────────────────────────────────────

    async def _look_up(
        self, find: Callable[[], Awaitable[T | Doubt | None]], left: float, after_stop: float = math.inf
    ) -> T | _Left:
        """Look again and again, for `left` seconds in which the server answers; `after_stop` at most while the batch is
        being stopped."""
        gap, errors, doubt = self._patience.first_gap, self._patience.shortest_run_deadline, self._patience.not_found
        while True:
            left = min(left, after_stop) if self._hurrying else left
            heard, found = await self._ask(find)
            if found is not None and not isinstance(found, Doubt):
                return found
            if heard is _Heard.ANSWER and left <= 0 and (found is None or doubt <= 0):
                return _Left.CLOSED if found is None else _Left.IN_DOUBT
            if errors <= 0:
                return _Left.IN_DOUBT
            # One last look exactly when the window closes.
            step = min(gap, left) if left > 0 else gap
            if not await self._rest(step):
                return _Left.QUIT
            left -= step if heard is _Heard.ANSWER else 0
            errors -= step if heard is _Heard.ERROR else 0
            doubt -= step if isinstance(found, Doubt) else 0
            gap = min(2 * gap, self._patience.longest_gap)

    def _window(self, lost: OpenAttempt, failure: Failure | None) -> float:
        if failure is not None and failure.kind is FailureKind.ERRORED:
            return self._patience.errored_window
        clock, window = self._lane.clock, self._lane.settings.lost_window
        marked_at = self._lane.sent.sent_at(lost.slot, lost.key)
        if marked_at is not None:
            passed = clock.monotonic() - marked_at
        else:
            # After a reboot, or on a copied folder, only the wall clock tells; it may have been set meanwhile.
            passed = clock.wall() - lost.sent_at - self._patience.send_margin
        return min(max(0.0, window - passed), window)

    async def _listen_again(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        """A chat's answer, among what was said to its user."""
        said = await self._look_up(lambda: self._lookup.message(lost), self._window(lost, failure))
        if isinstance(said, _Left):
            return await self._in_vain(lost, failure, said)
        known = replace(lost, message_id=said.message_id, conversation_id=said.conversation_id)
        await self._attach(known)
        if said.outcome is not None:
            return await self._end(lost, said.outcome, said.conversation_id)
        after_stop = self._patience.after_stop
        found = await self._look_up(lambda: self._answer_of(known), self._answer_window, after_stop)
        return await self._end(lost, found, said.conversation_id)

    async def _answer_of(self, known: OpenAttempt) -> Outcome | None:
        said = await self._lookup.message(known)
        return None if said is None else said.outcome

    @property
    def _answer_window(self) -> float:
        """A chatflow goes on, and saves its answer at its end. A chat that nobody listens to never does; what it had
        already saved is seen soon."""
        return self._run_deadline if self._recovery.by_run_id else self._lane.settings.lost_window

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _in_vain(self, lost: OpenAttempt, failure: Failure | None, left: _Left) -> Settled:
        match left:
            case _Left.QUIT:
                return Settled.LAID_DOWN
            case _Left.IN_DOUBT:
                return await self._give_up(lost, Cause.REPLY_LOST, lost.run_id)
            case _Left.CLOSED:
                return await self._not_found(lost, failure)

    async def _not_found(self, lost: OpenAttempt, failure: Failure | None) -> Settled:
        if failure is not None and failure.kind is FailureKind.ERRORED:
            return await self._refused_after_all(lost, failure)
        cause = Cause.REPLY_LOST
        if failure is not None and failure.code == "no_run_seen":
            cause = Cause.NOT_STARTED
        return await self._give_up(lost, cause, lost.run_id)

    async def _refused_after_all(self, lost: OpenAttempt, failure: Failure) -> Settled:
        """The server said 5xx in its own words, and no run turned up: none was started."""
        lane = self._lane
        verdict = judge_server_error(Cause.SERVER_ERROR, lost.key.number - lost.job.refused)
        waits = verdict.action is Action.RETRY
        due_at = lane.clock.wall() + verdict.delay if waits else None
        move = RowMove.WAIT if waits else RowMove.FAIL
        error = failure.message or failure.code
        await lane.recorder.put(Refuse(lost.key, str(verdict.cause), error, move, due_at, counts=True))
        after_verdict(lane, lost.job, verdict, Outcome(RunStatus.FAILED, error=error))
        return Settled.SLOT_FREE

    async def _give_up(self, lost: OpenAttempt, cause: Cause, run_id: str | None) -> Settled:
        lane = self._lane
        await lane.recorder.put(GiveUp(lost.key, cause.value, run_id))
        self._tell(Event(Fact.GAVE_UP, {"position": lost.key.position, "cause": cause.value}))
        if not lane.share.proven.is_set() and cause is Cause.NOT_STARTED:
            # The very first row met silence: more rows would only meet the same, one window each.
            lane.pause(cause, "")
        lane.intake.settled(lost.job)
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
