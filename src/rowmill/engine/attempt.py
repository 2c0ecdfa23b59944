"""The pay-once protocol for one row (docs/design/pay-once.md).

intent committed → bytes leave → run id committed → result committed → slot free. What is not certain goes to the
reconciler; only what certainly cost nothing is put back.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import AttemptState, Outcome, RowMove, RunStatus
from rowmill.domain.causes import Cause
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import QUERY
from rowmill.domain.pace import Signal
from rowmill.domain.verdict import Action, Failure, FailureKind, Verdict, judge_failure, judge_outcome, quoted_limit
from rowmill.ports.dify import Attached, Finished, Opened, RunRequest
from rowmill.ports.store import Attach, AttemptKey, Finish, Intend, Lose, OpenAttempt, Refuse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from rowmill.domain.batch import Settings
    from rowmill.engine.intake import Intake
    from rowmill.engine.permits import Permits
    from rowmill.engine.recorder import Recorder
    from rowmill.engine.versions import Versions
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp
    from rowmill.ports.store import RowJob, SentMarks

# An intent that cannot be sent this soon is taken back: its moment of sending must stay true.
SEND_PATIENCE = 5.0

_SIGNALS = {
    Cause.APP_LIMIT: Signal.REJECT,
    Cause.RATE_LIMIT: Signal.REJECT,
    Cause.EDGE_LIMIT: Signal.EDGE,
    Cause.UNREACHABLE: Signal.DOWN,
}


@dataclass(frozen=True, slots=True)
class Lane:
    """What all attempts of one batch share."""

    batch_id: str
    app: DifyApp
    settings: Settings
    recorder: Recorder
    permits: Permits
    intake: Intake
    sent: SentMarks
    clock: Clock
    pause: Callable[[Cause, str], None]
    lost: Callable[[OpenAttempt, Failure], None]
    versions: Versions


@dataclass(slots=True)
class _Listening:
    """What one attempt has heard so far."""

    key: AttemptKey
    user: str
    slot: int
    sent_at: float
    reserved_at: float
    ahead: float = 0.0
    attached: Attached | None = None
    recorded: asyncio.Future[bool] | None = None
    """the commit of the run id, under way"""
    reserved: bool = True
    began: float | None = None
    """when it took its place in flight"""


class _NotNowError(Exception):
    """No place in flight came free in time, or it is time to quit: nothing was sent."""


class Attempts:
    """Runs attempts, one call per row."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def run(self, job: RowJob, slot: int) -> bool:
        """One attempt of a row on a slot. True if the slot is free again; False if it must stay the attempt's own."""
        lane = self._lane
        if not await lane.permits.reserve(lane.intake.quit):
            lane.intake.settled()
            return True
        key = AttemptKey(lane.batch_id, job.position, job.tries + 1)
        user = slot_user(lane.batch_id, slot)
        listening = _Listening(key, user, slot, lane.clock.wall(), lane.clock.monotonic())
        if not await self._intend(listening):
            lane.intake.settled()
            return True
        return await self._send(job, listening)

    async def _intend(self, heard: _Listening) -> bool:
        lane = self._lane
        try:
            taken = await lane.recorder.put(Intend(heard.key, heard.slot, heard.user, heard.sent_at))
        except BaseException:
            lane.permits.cancel()
            raise
        if not taken:
            lane.permits.cancel()
        return taken

    async def _send(self, job: RowJob, heard: _Listening) -> bool:
        lane = self._lane
        try:
            outcome = await self._listen(job, heard)
        except _NotNowError:
            await self._put_back(job, Refuse(heard.key, "gate"))
            return True
        except DifyFailureError as error:
            self._leave(heard, None)
            return await self._failed(job, heard, error.failure)
        except BaseException:
            self._leave(heard, None)
            raise
        seconds = lane.clock.monotonic() - (heard.began or 0.0)
        self._leave(heard, seconds)
        await self._finish(job, heard.key, outcome, seconds)
        return True

    async def _take_place(self, heard: _Listening) -> None:
        """The connection stands: from here on the run is in flight. Taken no sooner, so that connecting, which is our
        time and not Dify's, keeps no other row waiting."""
        lane, heard.reserved = self._lane, False
        prepared = lane.clock.monotonic() - heard.reserved_at
        if not await lane.permits.send(SEND_PATIENCE, lane.intake.quit, prepared):
            raise _NotNowError
        heard.began = lane.clock.monotonic()
        lane.sent.mark(heard.slot, heard.key)

    def _leave(self, heard: _Listening, seconds: float | None) -> None:
        if heard.began is not None:
            self._lane.permits.release(seconds)
        elif heard.reserved:
            self._lane.permits.cancel()

    async def _listen(self, job: RowJob, heard: _Listening) -> Outcome:
        lane = self._lane
        request = make_request(job, heard.user, lane.versions.pinned)
        async with aclosing(lane.app.run(request, lambda: self._take_place(heard))) as events:
            async for event in events:
                match event:
                    case Opened():
                        heard.ahead = event.ahead or 0.0
                    case Attached():
                        self._attach(heard, event)
                    case Finished():
                        return event.outcome
        raise DifyFailureError(Failure(FailureKind.CUT if heard.attached else FailureKind.AMBIGUOUS, "stream_ended"))

    def _attach(self, heard: _Listening, ids: Attached) -> None:
        lane = self._lane
        heard.attached = ids
        lane.versions.heard(heard.key, ids.workflow_id)
        lane.permits.accepted()
        # Not waited for here: the next events are read meanwhile, and the commits stay in order.
        record = Attach(heard.key, ids.run_id, ids.task_id, ids.workflow_id, heard.ahead)
        heard.recorded = lane.recorder.put(record)

    async def _finish(self, job: RowJob, key: AttemptKey, outcome: Outcome, seconds: float) -> None:
        lane = self._lane
        if not lane.permits.pace.proven:
            lane.permits.accepted()
        lane.versions.heard(key, outcome.workflow_id)
        billed = job.tries + 1 - job.refused
        verdict = judge_outcome(outcome, billed, lane.settings.retries)
        await lane.recorder.put(finish_record(key, outcome, verdict, lane.clock, seconds))
        after_verdict(lane, verdict, outcome.error or "")

    async def _failed(self, job: RowJob, heard: _Listening, failure: Failure) -> bool:
        lane = self._lane
        if heard.recorded is not None:
            await heard.recorded
        verdict = judge_failure(failure, job.tries + 1 - job.refused)
        match verdict.action:
            case Action.RECONCILE:
                return await self._lose(job, heard, failure, verdict)
            case Action.RESEND:
                self._slow_down(failure, verdict)
                await self._put_back(job, Refuse(heard.key, str(verdict.cause), failure.message or failure.code))
            case _:
                outcome = Outcome(RunStatus.FAILED, error=failure.message or failure.code)
                await lane.recorder.put(finish_record(heard.key, outcome, verdict, lane.clock))
                after_verdict(lane, verdict, "")
        return True

    async def _lose(self, job: RowJob, heard: _Listening, failure: Failure, verdict: Verdict) -> bool:
        lane = self._lane
        if heard.attached is None:
            await lane.recorder.put(Lose(heard.key, str(verdict.cause)))
        lost = OpenAttempt(
            key=heard.key,
            state=AttemptState.ATTACHED if heard.attached else AttemptState.UNKNOWN,
            user=heard.user,
            slot=heard.slot,
            sent_at=heard.sent_at,
            job=job,
            run_id=heard.attached.run_id if heard.attached else None,
            task_id=heard.attached.task_id if heard.attached else None,
            ahead=heard.ahead,
            cause=str(verdict.cause),
        )
        lane.lost(lost, failure)  # the reconciler settles the row with the intake
        return False

    def _slow_down(self, failure: Failure, verdict: Verdict) -> None:
        lane = self._lane
        if verdict.pause:
            lane.pause(verdict.cause or Cause.RUN_FAILED, failure.message or failure.code)
            return
        limit = quoted_limit(failure.message)
        if limit is not None:
            lane.permits.pace.learn_limit(limit)
        cause = verdict.cause or Cause.UNREACHABLE
        lane.permits.trouble(_SIGNALS.get(cause, Signal.REJECT), cause, failure.retry_after)

    async def _put_back(self, job: RowJob, record: Refuse) -> None:
        lane = self._lane
        if await lane.recorder.put(record):
            lane.intake.give_back(replace(job, tries=job.tries + 1, refused=job.refused + 1))
        lane.intake.settled()


def slot_user(batch_id: str, slot: int) -> str:
    """The end user of a slot: our own idempotency key. Dify's log can be asked for it (at most 30 characters)."""
    return f"rowmill-{batch_id[:8]}-s{slot}"


def make_request(job: RowJob, user: str, workflow_id: str | None) -> RunRequest:
    """What is sent for a row. A chat's question travels beside the inputs."""
    inputs = {name: value for name, value in job.inputs.items() if name != QUERY}
    return RunRequest(inputs, user, query=job.inputs.get(QUERY), workflow_id=workflow_id)


def finish_record(
    key: AttemptKey, outcome: Outcome, verdict: Verdict, clock: Clock, seconds: float | None = None
) -> Finish:
    """The record for an attempt that ended, with the moment of the next one if the row is to be tried again."""
    waits = verdict.move is RowMove.WAIT
    due_at = clock.wall() + verdict.delay * (1 + 0.25 * clock.chance()) if waits else None
    cause = verdict.cause.value if verdict.cause else None
    spent = outcome.seconds if outcome.seconds is not None else seconds
    return Finish(key, verdict.move, outcome, cause, spent, due_at, clock.wall())


def after_verdict(lane: Lane, verdict: Verdict, detail: str) -> None:
    """What follows from a committed verdict for the batch."""
    if verdict.move is RowMove.WAIT:
        lane.intake.wait_until(lane.clock.wall() + verdict.delay)
    if verdict.pause and verdict.cause is not None:
        lane.pause(verdict.cause, detail)
    lane.intake.settled()
