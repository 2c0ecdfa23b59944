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


# Dify's error codes that no row can get around [contract §5.1].
_APP_CODES: dict[str, Cause] = {
    "unauthorized": Cause.BAD_KEY,
    "forbidden": Cause.FORBIDDEN,
    "workflow_version_execution_not_allowed": Cause.VERSION_GONE,
    "not_workflow_app": Cause.WRONG_MODE,
    "not_chat_app": Cause.WRONG_MODE,
    "not_completion_app": Cause.WRONG_MODE,
    "app_unavailable": Cause.UNPUBLISHED,
    "agent_not_published": Cause.UNPUBLISHED,
    "provider_not_initialize": Cause.MODEL_SETUP,
    "provider_quota_exceeded": Cause.QUOTA,
    "model_currently_not_support": Cause.MODEL_SETUP,
    "rate_limit_error": Cause.QUOTA,
    "not_dify": Cause.NOT_DIFY,
    "redirected": Cause.REDIRECTED,
}

_ROW_CODES: dict[str, Cause] = {
    "file_too_large": Cause.TOO_LARGE,
    "request_entity_too_large": Cause.TOO_LARGE,
    "unsupported_file_type": Cause.BAD_FILE,
    "file_gone": Cause.FILE_GONE,
    "reply_too_large": Cause.TOO_LARGE,
}

_APP_CAUSES = frozenset({Cause.UNPUBLISHED, Cause.VERSION_GONE, Cause.NOT_DIFY, Cause.BAD_KEY, Cause.FORBIDDEN})

# The model's own words in chat, agent and completion apps: a run was started.
_MODEL_ERROR = "completion_request_error"
_TOO_MANY = "too many requests"
_UNPUBLISHED = "workflow not published"
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
            return _judge_refusal(failure, cause_of_failure(failure), tries)


def _judge_refusal(failure: Failure, cause: Cause, tries: int) -> Verdict:
    if cause in (Cause.APP_LIMIT, Cause.RATE_LIMIT, Cause.EDGE_LIMIT, Cause.UNREACHABLE):
        return Verdict(Action.RESEND, cause, counts=False)
    if failure.code in _APP_CODES or cause in _APP_CAUSES:
        return Verdict(Action.RESEND, cause, pause=True, counts=False)
    if failure.code == _MODEL_ERROR and cause in PASSING:
        return judge_server_error(cause, tries)
    return Verdict(Action.SETTLE, cause, RowMove.FAIL, pause=cause in HOPELESS)


def judge_server_error(cause: Cause, tries: int) -> Verdict:
    """An error of the server that started no run: some more tries, then the row's own data is to blame."""
    if tries < SERVER_TRIES:
        return Verdict(Action.RETRY, cause, RowMove.WAIT, delay=retry_delay(tries))
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
    text = failure.message.lower()
    if failure.kind is FailureKind.NOT_SENT:
        return Cause.UNREACHABLE
    if failure.code == _MODEL_ERROR:
        return cause_of_text(failure.message)
    if text.startswith(_TOO_MANY) or failure.code == "too_many_requests":
        return Cause.APP_LIMIT
    if _UNPUBLISHED in text:
        return Cause.UNPUBLISHED
    if failure.code in _APP_CODES:
        return _APP_CODES[failure.code]
    if failure.code in _ROW_CODES:
        return _ROW_CODES[failure.code]
    return _cause_of_status(failure)


def _cause_of_status(failure: Failure) -> Cause:
    match failure.status:
        case 429:
            return Cause.EDGE_LIMIT if failure.code == "edge_1015" else Cause.RATE_LIMIT
        case 503 if failure.kind is FailureKind.REFUSED:
            return Cause.UNREACHABLE
        case 401:
            return Cause.BAD_KEY
        case 403:
            return Cause.FORBIDDEN
        case 404:
            return Cause.VERSION_GONE if "workflow" in failure.message.lower() else Cause.NOT_FOUND
        case 413:
            return Cause.TOO_LARGE
        case 400 | 415 | 422:
            return cause_of_text(failure.message, Cause.BAD_INPUT)
        case int() as status if status >= 500:  # noqa: PLR2004
            return Cause.SERVER_ERROR
        case _:
            return Cause.BAD_INPUT if failure.kind is FailureKind.REFUSED else Cause.REPLY_LOST


def judge_outcome(outcome: Outcome, billed: int, retries: int) -> Verdict:
    """What to do about a run that ended. `billed` counts the row's attempts with a run, this one included;
    `retries` is how often the user lets a failed, and billed, run be repeated."""
    match outcome.status:
        case RunStatus.SUCCEEDED:
            return Verdict(Action.SETTLE, None, RowMove.SUCCEED)
        case RunStatus.PARTIAL:
            return Verdict(Action.SETTLE, None, RowMove.SUCCEED_IN_PART)
        case RunStatus.PAUSED:
            return Verdict(Action.SETTLE, Cause.NEEDS_PERSON, RowMove.FAIL)
        case RunStatus.STOPPED:
            cause = cause_of_text(outcome.error, Cause.STOPPED)
            return Verdict(Action.SETTLE, cause, RowMove.STOP)
        case RunStatus.FAILED:
            return _judge_failed_run(cause_of_text(outcome.error), billed, retries)


def _judge_failed_run(cause: Cause, billed: int, retries: int) -> Verdict:
    if cause is Cause.STOPPED:
        return Verdict(Action.SETTLE, cause, RowMove.STOP)
    if cause in PASSING and billed <= retries:
        return Verdict(Action.RETRY, cause, RowMove.WAIT, delay=retry_delay(billed))
    return Verdict(Action.SETTLE, cause, RowMove.FAIL, pause=cause in HOPELESS)


def retry_delay(tries: int) -> float:
    """Seconds before attempt number `tries` + 1 of a row: 2, 4, 8 … 60. Jitter is added where it is used."""
    return float(min(60, 2 ** max(1, tries)))


_QUOTED = re.compile(r"maximum concurrent requests allowed for \S+ is (\d{1,6})")


def quoted_limit(message: str) -> int | None:
    """The app's own limit of runs at once, where Dify's refusal names it."""
    match = _QUOTED.search(message)
    return int(match.group(1)) if match else None
