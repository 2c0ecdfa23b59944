"""The pay-once protocol for one row (docs/design/pay-once.md).

intent committed → bytes leave → run id committed → result committed → slot free. What is not certain goes to the
reconciler; only what certainly cost nothing is put back.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rowmill.domain.batch import AttemptState, Outcome, RowMove, RunStatus
from rowmill.domain.causes import PASSING, Cause
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import QUERY, SIDE_FIELDS
from rowmill.domain.pace import Kind, ResponseMode, Sample, Start
from rowmill.domain.verdict import (
    Action,
    Failure,
    FailureKind,
    Verdict,
    judge_failure,
    judge_outcome,
    lost_upload,
    quoted_limit,
)
from rowmill.ports.dify import Attached, Finished, Opened, RunRequest
from rowmill.ports.store import Ask, Attach, AttemptKey, Finish, Intend, Lose, OpenAttempt, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.batch import Settings
    from rowmill.domain.brakes import Brakes, Reason
    from rowmill.engine.downloads import Downloads
    from rowmill.engine.intake import Intake
    from rowmill.engine.permits import Share
    from rowmill.engine.recorder import Recorder
    from rowmill.engine.uploads import Ready, Uploads
    from rowmill.engine.versions import Versions
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp
    from rowmill.ports.sent import SentMarks
    from rowmill.ports.store import RowJob

# An intent that cannot be sent this soon is taken back: its moment of sending must stay true.
SEND_PATIENCE = 5.0
STOP_TRIES = 3

_REFUSALS = {
    Cause.APP_LIMIT: Kind.REJECT,
    Cause.RATE_LIMIT: Kind.REJECT,
    Cause.EDGE_LIMIT: Kind.EDGE,
    Cause.UNREACHABLE: Kind.DOWN,
}


@dataclass(frozen=True, slots=True)
class Lane:
    """What all attempts of one batch share."""

    batch_id: str
    app: DifyApp
    settings: Settings
    recorder: Recorder
    share: Share
    intake: Intake
    sent: SentMarks
    clock: Clock
    brakes: Brakes
    pause: Callable[[Reason, str], None]
    lost: Callable[[OpenAttempt, Failure], None]
    uploads: Uploads
    downloads: Downloads
    versions: Versions


@dataclass(slots=True)
class _Listening:
    """What one attempt has heard so far."""

    key: AttemptKey
    user: str
    slot: int
    sent_at: float
    reserved_at: float
    mode: ResponseMode
    ready: Ready
    ahead: float = 0.0
    attached: Attached | None = None
    recorded: asyncio.Future[bool] | None = None
    """the commit of the run id, under way"""
    reserved: bool = True
    start: Start | None = None
    """its place in flight, once it has one"""


class _NotNowError(Exception):
    """No place in flight came free in time, or it is time to quit: nothing was sent."""


class Attempts:
    """Runs attempts, one call per row. `live`: those that are in flight."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.live: dict[AttemptKey, _Listening] = {}
        self.stopping = False
        """whether runs are to be stopped as soon as their task ids are known"""
        self._stops: set[asyncio.Task[None]] = set()

    async def run(self, job: RowJob, slot: int) -> bool:
        """One attempt of a row on a slot. True if the slot is free again; False if it must stay the attempt's own."""
        lane = self._lane
        if not await lane.share.reserve(lane.intake.quit):
            lane.intake.release(job)
            lane.intake.settled()
            return True
        reserved_at = lane.clock.monotonic()
        key = AttemptKey(lane.batch_id, job.position, job.tries + 1)
        user, mode = user_of(lane.batch_id, job, slot), lane.share.pace.response_mode()
        ready = await self._make_ready(job, Intend(key, slot, user, lane.clock.wall()))
        if ready is None:
            return True
        listening = _Listening(key, user, slot, lane.clock.wall(), reserved_at, mode, ready)
        taken = await self._intend(listening)
        lane.intake.release(job)
        if not taken:
            lane.intake.settled()
            return True
        return await self._send(job, listening)

    async def _make_ready(self, job: RowJob, intend: Intend) -> Ready | None:
        """The row's inputs with its files uploaded; None if the row was put back, or failed, for want of one. Nothing
        is intended yet: an upload is no run, and may take its time."""
        lane, ready = self._lane, None
        try:
            ready = await lane.uploads.ready(job, intend.user, lane.intake.quit)
        except DifyFailureError as error:
            verdict = lane.uploads.judge(job, error.failure)
            if verdict.action is Action.SETTLE:
                await self._fail_unsent(job, intend, verdict, error.failure.message or error.failure.code)
                return None
            if verdict.pause:
                lane.pause(verdict.cause or Cause.BAD_FILE, error.failure.message or error.failure.code)
            lane.share.trouble(_sample_of(error.failure, verdict), verdict.cause)
        finally:
            if ready is None:
                lane.share.cancel()
        if ready is None:
            lane.intake.release(job)
            lane.intake.give_back(job)
            lane.intake.settled()
        return ready

    async def _fail_unsent(self, job: RowJob, intend: Intend, verdict: Verdict, error: str) -> None:
        lane = self._lane
        if await lane.recorder.put(intend):
            await lane.recorder.put(Refuse(intend.key, str(verdict.cause), error, verdict.move))
        lane.intake.release(job)
        after_verdict(lane, job, verdict, Outcome(RunStatus.FAILED, error=error))

    async def quarantine(self, job: RowJob, slot: int) -> None:
        """A row that has ended several processes is not tried once more: it fails, and nothing was sent."""
        lane = self._lane
        key = AttemptKey(lane.batch_id, job.position, job.tries + 1)
        intend = Intend(key, slot, user_of(lane.batch_id, job, slot), lane.clock.wall())
        await self._fail_unsent(job, intend, Verdict(Action.SETTLE, Cause.KILLS_PROCESS), "")

    async def _intend(self, heard: _Listening) -> bool:
        lane = self._lane
        try:
            taken = await lane.recorder.put(Intend(heard.key, heard.slot, heard.user, heard.sent_at))
        except BaseException:
            lane.share.cancel()
            raise
        if not taken:
            lane.share.cancel()
        return taken

    async def _send(self, job: RowJob, heard: _Listening) -> bool:
        lane = self._lane
        try:
            outcome = await self._listen(job, heard)
        except _NotNowError:
            await self._put_back(job, Refuse(heard.key, "gate"))
            return True
        except DifyFailureError as error:
            return await self._failed(job, heard, error.failure)
        except BaseException:
            self._leave(heard, Sample(Kind.LEFT), None)
            raise
        seconds = lane.clock.monotonic() - (heard.start.at if heard.start else 0.0)
        await self._finish(job, heard, outcome, seconds)
        return True

    async def _take_place(self, heard: _Listening) -> None:
        """The connection stands: from here on the run is in flight. Taken no sooner, so that connecting, which is our
        time and not Dify's, keeps no other row waiting."""
        lane, heard.reserved = self._lane, False
        prepared = lane.clock.monotonic() - heard.reserved_at
        heard.start = await lane.share.send(SEND_PATIENCE, lane.intake.quit, prepared, heard.mode)
        if heard.start is None:
            raise _NotNowError
        self.live[heard.key] = heard
        lane.sent.mark(heard.slot, heard.key, lane.clock.monotonic())

    def _leave(self, heard: _Listening, sample: Sample, seconds: float | None, cause: Cause | None = None) -> None:
        """The place in flight, or the reservation of one, is free."""
        self.live.pop(heard.key, None)
        if heard.start is not None:
            self._lane.share.ended(heard.start, sample, seconds, cause)
        elif heard.reserved:
            heard.reserved = False
            self._lane.share.cancel()
            if sample.kind is Kind.DOWN:
                self._lane.share.trouble(sample, cause)

    # ── stopping Dify's runs ────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Ask Dify to stop what is in flight, and what will turn out to be. The streams tell what comes of it."""
        self.stopping = True
        for heard in self.live.values():
            self._stop(heard)

    def go_on(self) -> None:
        """Nothing is to be stopped any more."""
        self.stopping = False

    async def close(self) -> None:
        """Nobody waits for what is still being asked."""
        for task in self._stops:
            task.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)

    def _stop(self, heard: _Listening) -> None:
        if heard.attached is not None:
            self.stop_run(heard.attached.task_id, heard.user)

    def stop_run(self, task_id: str | None, user: str) -> None:
        """A run whose task id is not known cannot be stopped: a blocking one never."""
        if task_id is not None:
            task = asyncio.create_task(self._ask_to_stop(task_id, user))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def _ask_to_stop(self, task_id: str, user: str) -> None:
        """An answer proves nothing, and no answer is no reason to ask for ever: the run's own end tells."""
        for _ in range(STOP_TRIES):
            try:
                await self._lane.app.stop(task_id, user)
            except DifyFailureError:
                await self._lane.clock.sleep(1.0)
            else:
                return

    # ── one attempt ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, job: RowJob, heard: _Listening) -> Outcome:
        lane = self._lane
        sent = replace(job, inputs=heard.ready.inputs)
        request = make_request(sent, heard, lane.versions.pinned)
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
        # Before other rows may start: they may have to be sent to this version.
        lane.versions.heard(heard.key, ids.workflow_id)
        if heard.start is not None:
            lane.share.accepted(heard.start)
        # Not waited for here: the next events are read meanwhile, and the commits stay in order.
        record = Attach(
            heard.key, ids.run_id, ids.task_id, ids.workflow_id, heard.ahead, ids.message_id, ids.conversation_id
        )
        heard.recorded = lane.recorder.put(record)
        if self.stopping:
            self._stop(heard)

    async def _finish(self, job: RowJob, heard: _Listening, outcome: Outcome, seconds: float) -> None:
        lane = self._lane
        lane.versions.heard(heard.key, outcome.workflow_id)
        billed = job.tries + 1 - job.refused
        verdict = lane.brakes.allow(judge_outcome(outcome, billed, lane.settings.retries))
        self._leave(heard, Sample(_kind_of(outcome, verdict), elapsed=outcome.seconds), seconds)
        record = finish_record(heard.key, outcome, verdict, lane.clock, seconds)
        if await lane.recorder.put(record) and isinstance(record, Finish):
            lane.downloads.collect(heard.key, outcome.outputs)
        after_verdict(lane, job, verdict, outcome)

    async def _failed(self, job: RowJob, heard: _Listening, failure: Failure) -> bool:
        lane = self._lane
        verdict = judge_failure(failure, job.tries + 1 - job.refused)
        self._leave(heard, _sample_of(failure, verdict), None, verdict.cause)
        if heard.recorded is not None:
            await heard.recorded
        if heard.ready.reused and lost_upload(failure):
            await lane.uploads.forget(heard.ready.reused)
            if verdict.action is Action.SETTLE:
                await self._put_back(job, Refuse(heard.key, str(verdict.cause), failure.message))
                return True
        match verdict.action:
            case Action.RECONCILE:
                return await self._lose(job, heard, failure, verdict)
            case Action.RESEND:
                if verdict.pause:
                    lane.pause(verdict.cause or Cause.RUN_FAILED, failure.message or failure.code)
                await self._put_back(job, Refuse(heard.key, str(verdict.cause), failure.message or failure.code))
            case _:
                outcome = Outcome(RunStatus.FAILED, error=failure.message or failure.code)
                await lane.recorder.put(finish_record(heard.key, outcome, verdict, lane.clock))
                after_verdict(lane, job, verdict, outcome)
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
            message_id=heard.attached.message_id if heard.attached else None,
            conversation_id=heard.attached.conversation_id if heard.attached else None,
        )
        lane.lost(lost, failure)  # the reconciler settles the row with the intake
        return False

    async def _put_back(self, job: RowJob, record: Refuse) -> None:
        lane = self._lane
        if await lane.recorder.put(record):
            lane.intake.give_back(replace(job, tries=job.tries + 1, refused=job.refused + 1))
        lane.intake.settled()


def slot_user(batch_id: str, slot: int) -> str:
    """The end user of a slot: our own idempotency key. Dify's log can be asked for it (at most 30 characters)."""
    return f"rowmill-{batch_id[:8]}-s{slot}"


def slot_of(batch_id: str, user: str | None) -> int | None:
    """The slot whose end user this is; None for anybody else's."""
    number = (user or "").removeprefix(f"rowmill-{batch_id[:8]}-s")
    return int(number) if number.isdecimal() and user == slot_user(batch_id, int(number)) else None


def user_of(batch_id: str, job: RowJob, slot: int) -> str:
    """A conversation belongs to the end user that began it, so it has one of its own, whichever slot runs its turns.
    They come one after the other: like a slot, it has one attempt at a time."""
    return slot_user(batch_id, slot) if job.first is None else f"rowmill-{batch_id[:8]}-c{job.first}"


def make_request(job: RowJob, heard: _Listening, workflow_id: str | None) -> RunRequest:
    """What is sent for a row. A chat's question travels beside the inputs."""
    inputs = {name: value for name, value in job.inputs.items() if name not in SIDE_FIELDS}
    return RunRequest(
        inputs,
        heard.user,
        query=job.inputs.get(QUERY),
        conversation_id=job.continues,
        workflow_id=workflow_id,
        streaming=heard.mode is not ResponseMode.BLOCKING,
    )


def _kind_of(outcome: Outcome, verdict: Verdict) -> Kind:
    """What a run's end tells about the load. Bad inputs must not slow the others down."""
    if outcome.status is not RunStatus.FAILED:
        return Kind.OK
    return Kind.OVERLOADED if verdict.cause in PASSING else Kind.FAILED


def _sample_of(failure: Failure, verdict: Verdict) -> Sample:
    """What a failed call tells about the load."""
    match verdict.action:
        case Action.RECONCILE:
            # A stream that broke after its run began tells about the network, not about the server's queue.
            return Sample(Kind.LEFT if failure.kind is FailureKind.CUT else Kind.UNKNOWN)
        case Action.RESEND if not verdict.pause:
            kind = _REFUSALS.get(verdict.cause or Cause.UNREACHABLE, Kind.REJECT)
            return Sample(kind, failure.retry_after, quoted=quoted_limit(failure.message))
        case _:
            return Sample(Kind.LEFT)


def finish_record(
    key: AttemptKey, outcome: Outcome, verdict: Verdict, clock: Clock, seconds: float | None = None
) -> Finish | Ask:
    """The record for an attempt that ended, with the moment of the next one if the row is to be tried again; or for
    one that waits for a person."""
    if verdict.move is RowMove.ASK:
        return Ask(key, outcome, str(verdict.cause), seconds if outcome.seconds is None else outcome.seconds)
    waits = verdict.move is RowMove.WAIT
    due_at = clock.wall() + verdict.delay * (1 + 0.25 * clock.chance()) if waits else None
    cause = verdict.cause.value if verdict.cause else None
    spent = outcome.seconds if outcome.seconds is not None else seconds
    return Finish(key, verdict.move, outcome, cause, spent, due_at, clock.wall())


def after_verdict(lane: Lane, job: RowJob, verdict: Verdict, outcome: Outcome) -> None:
    """What follows from a committed verdict for the batch."""
    if verdict.move is RowMove.WAIT:
        lane.intake.wait_until(lane.clock.wall() + verdict.delay)
    if verdict.pause and verdict.cause is not None:
        lane.pause(verdict.cause, outcome.error or "")
    brake = lane.brakes.note(verdict, outcome)
    if brake is not None:
        lane.pause(brake, "")
    lane.intake.settled(job)
