"""What to do after an attempt: one place that decides, for failures of the call and for runs that ended.

Rule of rules: only an attempt of which it is certain that no run was started is sent again without being asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rowmill.domain.batch import Outcome, RowMove, RunStatus
from rowmill.domain.causes import HOPELESS, PASSING, Cause, cause_of_text


class FailureKind(StrEnum):
    """What is known about the request when the call failed."""

    NOT_SENT = "not_sent"
    """no byte of the request can have reached an app: name, connection, TLS"""
    REFUSED = "refused"
    """Dify answered that it starts no run"""
    ERRORED = "errored"
    """Dify answered 5xx with an error of its own: most likely no run, but worth one look"""
    AMBIGUOUS = "ambiguous"
    """bytes were sent, and no run id came back"""
    CUT = "cut"
    """the run id is known, its end is not"""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call. `code` is Dify's own error code where it gave one, else ours; `retry_after` in seconds."""

    kind: FailureKind
    code: str
    message: str = ""
    status: int | None = None
    retry_after: float | None = None


class Action(StrEnum):
    SETTLE = "settle"
    """the row ends as `move` says"""
    RESEND = "resend"
    """no run was started: back to pending; the app's gate decides when the next row may start"""
    RETRY = "retry"
    """a run was started and failed: the row waits `delay` seconds for another, billed, attempt"""
    RECONCILE = "reconcile"
    """find out what became of it before anything else"""


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    cause: Cause | None = None
    move: RowMove = RowMove.FAIL
    delay: float = 0.0
    pause: bool = False
    """the whole batch pauses, with `cause` as its reason: every further row would meet the same"""
    counts: bool = True
    """whether the attempt counts as one that may have been billed"""


class _Effect(StrEnum):
    """What a refusal means for the row and for the batch."""

    GATE = "gate"
    """no run; the same row goes again once the app's gate opens"""
    PAUSE = "pause"
    """no run, and no other row fares better: the batch pauses and the row stays pending"""
    ROW = "row"
    """no run; the row's own data is to blame"""
    MODEL = "model"
    """the model's own words: a run was started"""
    LOOK = "look"
    """a run was started, and nobody listens to it any more"""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table; whatever it does not name fits. `cause` None: the message tells it."""

    effect: _Effect
    cause: Cause | None
    code: str | None = None
    status: tuple[int, ...] = ()
    text: str | None = None

    def fits(self, failure: Failure) -> bool:
        return (
            (self.code is None or self.code == failure.code)
            and (not self.status or failure.status in self.status)
            and (self.text is None or re.search(self.text, failure.message, re.IGNORECASE) is not None)
        )


_G, _P, _R = _Effect.GATE, _Effect.PAUSE, _Effect.ROW

# Refusals by Dify and by proxies in front of it [contract §5.1, §5.2, users.md §4]: the first line that fits counts.
# tests/domain/test_verdict.py has each with the text as it is sent.
_REFUSALS: tuple[_Line, ...] = (
    # The model's error may read like any of the others, so it comes first.
    _Line(_Effect.MODEL, None, code="completion_request_error"),
    _Line(_Effect.LOOK, Cause.REPLY_LOST, text=r"queue listening stopped"),
    # The app's own limit of runs at once comes as 429 or, just as often, as 400 invalid_param.
    _Line(_G, Cause.APP_LIMIT, code="too_many_requests"),
    _Line(_G, Cause.APP_LIMIT, text=r"^too many requests"),
    # Plan quotas are 429 too, and no waiting of seconds helps.
    _Line(_P, Cause.QUOTA, code="rate_limit_error"),
    _Line(_P, Cause.QUOTA, code="provider_quota_exceeded"),
    _Line(_P, Cause.MODEL_SETUP, code="provider_not_initialize"),
    _Line(_P, Cause.MODEL_SETUP, code="model_currently_not_support"),
    _Line(_P, Cause.UNPUBLISHED, text=r"workflow not published"),
    _Line(_P, Cause.UNPUBLISHED, code="app_unavailable"),
    _Line(_P, Cause.UNPUBLISHED, code="agent_not_published"),
    _Line(_P, Cause.WRONG_MODE, code="not_workflow_app"),
    _Line(_P, Cause.WRONG_MODE, code="not_chat_app"),
    _Line(_P, Cause.WRONG_MODE, code="not_completion_app"),
    _Line(_P, Cause.WRONG_MODE, text=r"does not support blocking mode"),
    _Line(_P, Cause.VERSION_REFUSED, code="workflow_version_execution_not_allowed"),
    _Line(_P, Cause.VERSION_GONE, status=(400,), text=r"^invalid workflow_id format|draft workflow"),
    _Line(_P, Cause.VERSION_GONE, status=(404,), text=r"workflow"),
    _Line(_R, Cause.CONVERSATION_GONE, code="conversation_completed"),
    _Line(_R, Cause.CONVERSATION_GONE, status=(404,), text=r"^conversation not exists"),
    _Line(_R, Cause.TOO_LARGE, code="file_too_large"),
    _Line(_R, Cause.TOO_LARGE, code="reply_too_large"),
    _Line(_R, Cause.BAD_FILE, code="unsupported_file_type"),
    _Line(_R, Cause.FILE_GONE, code="file_gone"),
    # Not Dify's own answer.
    _Line(_P, Cause.NOT_DIFY, code="not_dify"),
    _Line(_P, Cause.REDIRECTED, code="redirected"),
    _Line(_G, Cause.EDGE_LIMIT, code="edge_1015"),
    # What is left, by status.
    _Line(_P, Cause.BAD_KEY, code="unauthorized"),
    _Line(_P, Cause.BAD_KEY, status=(401,)),
    _Line(_P, Cause.FORBIDDEN, code="forbidden"),
    _Line(_P, Cause.FORBIDDEN, status=(403,)),
    _Line(_R, Cause.NOT_FOUND, status=(404,)),
    _Line(_R, Cause.TOO_LARGE, status=(413,)),
    _Line(_G, Cause.RATE_LIMIT, status=(429,)),
    _Line(_G, Cause.UNREACHABLE, status=(503,)),
    _Line(_R, None),
)

SERVER_TRIES = 3
UPLOAD_TRIES = 6
_LOST_UPLOAD = "invalid upload file"


def judge_failure(failure: Failure, tries: int) -> Verdict:
    """What to do about a failed call. `tries` is how many attempts of the row, this one included, may have been billed
    or met an error of the server."""
    match failure.kind:
        case FailureKind.CUT | FailureKind.AMBIGUOUS | FailureKind.ERRORED:
            return Verdict(Action.RECONCILE, cause_of_failure(failure))
        case FailureKind.NOT_SENT:
            return Verdict(Action.RESEND, Cause.UNREACHABLE, counts=False)
        case FailureKind.REFUSED:
            return _judge_refusal(failure, tries)


def _judge_refusal(failure: Failure, tries: int) -> Verdict:
    effect, cause = _line_of(failure).effect, cause_of_failure(failure)
    match effect:
        case _Effect.GATE | _Effect.PAUSE:
            return Verdict(Action.RESEND, cause, pause=effect is _Effect.PAUSE, counts=False)
        case _Effect.LOOK:
            return Verdict(Action.RECONCILE, cause)
        case _Effect.MODEL if cause in PASSING:
            return judge_server_error(cause, tries)
        case _:
            return Verdict(Action.SETTLE, cause, RowMove.FAIL, pause=cause in HOPELESS)


def _line_of(failure: Failure) -> _Line:
    return next(line for line in _REFUSALS if line.fits(failure))


def judge_server_error(cause: Cause, tries: int) -> Verdict:
    """An error of the server that started no run: some more tries, then the row's own data is to blame."""
    if tries < SERVER_TRIES:
        return Verdict(Action.RETRY, cause, RowMove.WAIT, delay=retry_delay(tries, cause))
    return Verdict(Action.SETTLE, cause, RowMove.FAIL)


def judge_upload(failure: Failure, errors: int) -> Verdict:
    """What to do about an upload that failed, before its row was sent. It costs nothing, whatever became of it, and is
    simply done again: by the row itself until `errors`, this one included, says that it is not the network's fault."""
    verdict = judge_failure(failure, 1)
    cause = verdict.cause
    match verdict.action:
        case Action.RECONCILE if errors < UPLOAD_TRIES:
            away = failure.kind is not FailureKind.ERRORED
            return Verdict(Action.RESEND, Cause.UNREACHABLE if away else Cause.SERVER_ERROR, counts=False)
        case Action.RECONCILE:
            return Verdict(Action.SETTLE, Cause.UPLOAD_FAILED)
        case Action.SETTLE if cause not in (Cause.TOO_LARGE, Cause.FILE_GONE):
            return Verdict(Action.SETTLE, Cause.BAD_FILE)
        case _:
            return verdict


def lost_upload(failure: Failure) -> bool:
    """Whether a run was, or may have been, refused because the server no longer has a file that was uploaded to it."""
    return _LOST_UPLOAD in failure.message.lower() or failure.code == "no_run_seen"


def cause_of_failure(failure: Failure) -> Cause:
    """The cause of a call that failed."""
    match failure.kind:
        case FailureKind.NOT_SENT:
            return Cause.UNREACHABLE
        case FailureKind.REFUSED:
            line = _line_of(failure)
            otherwise = Cause.RUN_FAILED if line.effect is _Effect.MODEL else Cause.BAD_INPUT
            return line.cause or cause_of_text(failure.message, otherwise)
        case _ if failure.code == "reply_too_large":
            return Cause.TOO_LARGE
        case _:
            # Also HTML of a proxy that has stopped waiting (502, 504, 524): the run may be alive.
            by_server = failure.status is not None and failure.status >= 500  # noqa: PLR2004
            return Cause.SERVER_ERROR if by_server else Cause.REPLY_LOST


def judge_outcome(outcome: Outcome, billed: int, retries: int) -> Verdict:
    """What to do about a run that ended. `billed` counts the row's attempts with a run, this one included;
    `retries` is how often the user lets a failed, and billed, run be repeated."""
    match outcome.status:
        case RunStatus.SUCCEEDED:
            return Verdict(Action.SETTLE, None, RowMove.SUCCEED)
        case RunStatus.PARTIAL:
            return Verdict(Action.SETTLE, None, RowMove.SUCCEED_IN_PART)
        case RunStatus.PAUSED:
            return Verdict(Action.SETTLE, Cause.NEEDS_PERSON, RowMove.ASK)
        case RunStatus.STOPPED:
            cause = cause_of_text(outcome.error, Cause.STOPPED)
            return Verdict(Action.SETTLE, cause, RowMove.STOP)
        case RunStatus.FAILED:
            return _judge_failed_run(cause_of_run(outcome), billed, retries)


# Codes of an `error` event within a run: their texts are free, and change with the version.
_RUN_CODES = {line.code: line.cause for line in _REFUSALS if line.effect is _P and line.code and not line.text}


def cause_of_run(outcome: Outcome) -> Cause:
    """The cause of a run that failed: by Dify's code where it gave one that tells it, else by the text."""
    return _RUN_CODES.get(outcome.code or "") or cause_of_text(outcome.error)


def _judge_failed_run(cause: Cause, billed: int, retries: int) -> Verdict:
    if cause is Cause.STOPPED:
        return Verdict(Action.SETTLE, cause, RowMove.STOP)
    if cause in PASSING and billed <= retries:
        return Verdict(Action.RETRY, cause, RowMove.WAIT, delay=retry_delay(billed, cause))
    return Verdict(Action.SETTLE, cause, RowMove.FAIL, pause=cause in HOPELESS)


# Limits per minute: sooner would only fail, and cost, again.
_BY_THE_MINUTE = frozenset({Cause.KNOWLEDGE_RATE})


def retry_delay(tries: int, cause: Cause | None = None) -> float:
    """Seconds before attempt number `tries` + 1 of a row: 2, 4, 8 … 60. Jitter is added where it is used."""
    return 60.0 if cause in _BY_THE_MINUTE else float(min(60, 2 ** max(1, tries)))


_QUOTED = re.compile(r"maximum concurrent requests allowed for \S+ is (\d{1,6})")


def quoted_limit(message: str) -> int | None:
    """The app's own limit of runs at once, where Dify's refusal names it."""
    match = _QUOTED.search(message)
    return int(match.group(1)) if match else None
