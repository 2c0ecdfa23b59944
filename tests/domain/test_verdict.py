from __future__ import annotations

import pytest

from rowmill.domain.batch import Outcome, RowMove, RunStatus
from rowmill.domain.causes import HOPELESS, PASSING, Cause
from rowmill.domain.verdict import (
    UPLOAD_TRIES,
    Action,
    Failure,
    FailureKind,
    Verdict,
    cause_of_failure,
    judge_failure,
    judge_outcome,
    judge_server_error,
    judge_upload,
    lost_upload,
    quoted_limit,
    retry_delay,
)

REFUSED, ERRORED, AMBIGUOUS = FailureKind.REFUSED, FailureKind.ERRORED, FailureKind.AMBIGUOUS
TOO_MANY = (
    "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
    "63c3dc61-3188-4721-9649-8c739f8067f1 is 2."
)


def failure(status=None, code="x", message="", kind=REFUSED, wait=None):
    return Failure(kind, code, message, status, wait)


def settled(cause, *, pause=False):
    return Verdict(Action.SETTLE, cause, RowMove.FAIL, pause=pause)


def resent(cause, *, pause=False):
    return Verdict(Action.RESEND, cause, pause=pause, counts=False)


def retried(cause, delay):
    return Verdict(Action.RETRY, cause, RowMove.WAIT, delay=delay)


# status, code, message -> verdict for the first try [contract §5.1].
REFUSALS = {
    "bad input": ((400, "invalid_param", "query is required in input form"), settled(Cause.BAD_INPUT)),
    "bad input of an unknown text": ((400, "invalid_param", "Arg user must be provided."), settled(Cause.BAD_INPUT)),
    "bad file": ((400, "invalid_param", "Invalid upload file"), settled(Cause.BAD_FILE)),
    "bad request": (
        (400, "bad_request", "The browser (or proxy) sent a request that this server could not understand."),
        settled(Cause.BAD_INPUT),
    ),
    "malformed version": (
        (400, "bad_request", "Invalid workflow_id format: 'notauuid'. "),
        resent(Cause.VERSION_GONE, pause=True),
    ),
    "draft version": (
        (400, "bad_request", "Cannot use draft workflow version. Workflow ID: 77aa."),
        resent(Cause.VERSION_GONE, pause=True),
    ),
    "blocking agent": (
        (400, "invalid_param", "Agent Chat App does not support blocking mode"),
        resent(Cause.WRONG_MODE, pause=True),
    ),
    "Dify lost its own run": (
        (400, "invalid_param", "queue listening stopped unexpectedly."),
        Verdict(Action.RECONCILE, Cause.REPLY_LOST),
    ),
    "unpublished": ((400, "invalid_param", "Workflow not published"), resent(Cause.UNPUBLISHED, pause=True)),
    "not a workflow": ((400, "not_workflow_app", ""), resent(Cause.WRONG_MODE, pause=True)),
    "not a chat": ((400, "not_chat_app", ""), resent(Cause.WRONG_MODE, pause=True)),
    "not a completion app": ((400, "not_completion_app", ""), resent(Cause.WRONG_MODE, pause=True)),
    "app unavailable": ((400, "app_unavailable", ""), resent(Cause.UNPUBLISHED, pause=True)),
    "agent unpublished": ((400, "agent_not_published", ""), resent(Cause.UNPUBLISHED, pause=True)),
    "model without a key": ((400, "provider_not_initialize", ""), resent(Cause.MODEL_SETUP, pause=True)),
    "hosted quota": ((400, "provider_quota_exceeded", ""), resent(Cause.QUOTA, pause=True)),
    "trial model": ((400, "model_currently_not_support", ""), resent(Cause.MODEL_SETUP, pause=True)),
    "conversation over": (
        (400, "conversation_completed", "The conversation has ended. Please start a new conversation."),
        settled(Cause.CONVERSATION_GONE),
    ),
    "key": ((401, "unauthorized", "Access token is invalid"), resent(Cause.BAD_KEY, pause=True)),
    "key, in other words": ((401, "http_401", "no"), resent(Cause.BAD_KEY, pause=True)),
    "API disabled": ((403, "forbidden", ""), resent(Cause.FORBIDDEN, pause=True)),
    "API disabled, in other words": ((403, "http_403", ""), resent(Cause.FORBIDDEN, pause=True)),
    "version pinned": (
        (403, "workflow_version_execution_not_allowed", ""),
        resent(Cause.VERSION_REFUSED, pause=True),
    ),
    "version gone": ((404, "not_found", "Workflow not found with id: 1"), resent(Cause.VERSION_GONE, pause=True)),
    "conversation gone": (
        (404, "not_found", "Conversation Not Exists. You have requested this URI [/v1/chat-messages]"),
        settled(Cause.CONVERSATION_GONE),
    ),
    "nothing there": ((404, "not_found", "The requested URL was not found."), settled(Cause.NOT_FOUND)),
    "wrong method": ((405, "method_not_allowed", "The method is not allowed"), settled(Cause.BAD_INPUT)),
    "file too large": ((413, "file_too_large", ""), settled(Cause.TOO_LARGE)),
    "nginx": ((413, "request_entity_too_large", ""), settled(Cause.TOO_LARGE)),
    "413 of another code": ((413, "http_413", ""), settled(Cause.TOO_LARGE)),
    "file kind": ((415, "unsupported_file_type", ""), settled(Cause.BAD_FILE)),
    "media type": (
        (415, "unsupported_media_type", "Did not attempt to load JSON data because the request Content-Type was not …"),
        settled(Cause.BAD_INPUT),
    ),
    "422": ((422, "http_422", "must be a string"), settled(Cause.BAD_INPUT)),
    "reply too large": ((200, "reply_too_large", ""), settled(Cause.TOO_LARGE)),
    "workspace quota": (
        (429, "rate_limit_error", "Workflow execution quota limit reached for tenant 1"),
        resent(Cause.QUOTA, pause=True),
    ),
    "app limit as 400": ((400, "invalid_param", TOO_MANY), resent(Cause.APP_LIMIT)),
    "app limit as 429": ((429, "too_many_requests", TOO_MANY), resent(Cause.APP_LIMIT)),
    "app limit without its text": ((429, "too_many_requests", ""), resent(Cause.APP_LIMIT)),
    "edge": ((429, "edge_1015", "error 1015"), resent(Cause.EDGE_LIMIT)),
    "other 429": ((429, "http_429", ""), resent(Cause.RATE_LIMIT)),
    "503 in Dify's words": ((503, "http_503", ""), resent(Cause.UNREACHABLE)),
    "not Dify": ((200, "not_dify", "<html>"), resent(Cause.NOT_DIFY, pause=True)),
    "redirect": ((302, "redirected", "https://x"), resent(Cause.REDIRECTED, pause=True)),
    # A model's own words: the run was started, so it is never simply sent again.
    "model rate": ((400, "completion_request_error", "Rate Limit Error"), retried(Cause.MODEL_RATE, 2.0)),
    "model rate like the app's": ((400, "completion_request_error", TOO_MANY), retried(Cause.MODEL_RATE, 2.0)),
    "model down": ((400, "completion_request_error", "Server Unavailable Error"), retried(Cause.MODEL_DOWN, 2.0)),
    "model key": (
        (400, "completion_request_error", "Incorrect API key provided"),
        settled(Cause.MODEL_SETUP, pause=True),
    ),
    "model quota": ((400, "completion_request_error", "insufficient_quota"), settled(Cause.QUOTA, pause=True)),
    "model says no": ((400, "completion_request_error", "Bad Request Error"), settled(Cause.RUN_FAILED)),
    "context": ((400, "completion_request_error", "maximum context length"), settled(Cause.CONTEXT)),
}


@pytest.mark.parametrize(("said", "verdict"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(said, verdict):
    assert judge_failure(failure(*said), tries=1) == verdict


def test_model_error_is_tried_three_times():
    rate = failure(400, "completion_request_error", "Rate Limit Error")
    verdicts = [judge_failure(rate, tries) for tries in (1, 2, 3, 4)]
    final = settled(Cause.MODEL_RATE)
    assert verdicts == [retried(Cause.MODEL_RATE, 2.0), retried(Cause.MODEL_RATE, 4.0), final, final]


@pytest.mark.parametrize("tries", [1, 3, 1000])
def test_refusal_of_no_run_has_no_budget(tries):
    assert judge_failure(failure(400, "invalid_param", TOO_MANY), tries) == resent(Cause.APP_LIMIT)


LOOKED_FOR = {
    "500": (ERRORED, 500, "internal_server_error", "", Cause.SERVER_ERROR),
    "500 unknown": (ERRORED, 500, "unknown", "Internal Server Error", Cause.SERVER_ERROR),
    "502": (AMBIGUOUS, 502, "http_502", "", Cause.SERVER_ERROR),
    "503 of a proxy": (AMBIGUOUS, 503, "http_503", "", Cause.SERVER_ERROR),
    "504": (AMBIGUOUS, 504, "http_504", "<html>", Cause.SERVER_ERROR),
    "524": (AMBIGUOUS, 524, "http_524", "", Cause.SERVER_ERROR),
    "no answer": (AMBIGUOUS, None, "no_answer", "", Cause.REPLY_LOST),
    "cut answer": (AMBIGUOUS, 200, "connection_cut", "", Cause.REPLY_LOST),
    "cut run": (FailureKind.CUT, None, "stream_ended", "", Cause.REPLY_LOST),
    "cut run of a huge reply": (FailureKind.CUT, None, "reply_too_large", "", Cause.TOO_LARGE),
}


@pytest.mark.parametrize("tries", [1, 99])
@pytest.mark.parametrize(("kind", "status", "code", "message", "cause"), LOOKED_FOR.values(), ids=LOOKED_FOR)
def test_what_may_be_a_run_is_looked_for(kind, status, code, message, cause, tries):
    verdict = judge_failure(failure(status, code, message, kind), tries)
    assert verdict == Verdict(Action.RECONCILE, cause)


@pytest.mark.parametrize("status", [None, 400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("kind", [FailureKind.CUT, AMBIGUOUS, ERRORED])
def test_what_may_be_a_run_is_never_sent_again(kind, status):
    assert judge_failure(failure(status, "unauthorized", TOO_MANY, kind), 1).action is Action.RECONCILE


@pytest.mark.parametrize("message", ["", TOO_MANY, "Workflow not published"])
def test_not_sent(message):
    lost = failure(None, "connection_refused", message, FailureKind.NOT_SENT)
    assert judge_failure(lost, 50) == resent(Cause.UNREACHABLE)
    assert cause_of_failure(lost) is Cause.UNREACHABLE


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("wait", [0.0, 7.0, 1e9])
def test_retry_after_is_never_given_to_a_row(kind, wait):
    for status, code in [(429, "http_429"), (503, "x"), (400, "completion_request_error"), (400, "invalid_param")]:
        with_wait = judge_failure(failure(status, code, "timed out", kind, wait), 1)
        assert with_wait == judge_failure(failure(status, code, "timed out", kind), 1)


SERVER_ERRORS = {1: 2.0, 2: 4.0, 3: None, 4: None}


@pytest.mark.parametrize(("tries", "delay"), SERVER_ERRORS.items(), ids=map(str, SERVER_ERRORS))
def test_server_error_thrice_is_the_row_itself(tries, delay):
    expected = settled(Cause.SERVER_ERROR) if delay is None else retried(Cause.SERVER_ERROR, delay)
    assert judge_server_error(Cause.SERVER_ERROR, tries) == expected


def test_a_limit_per_minute_waits_for_a_minute():
    error = "Sorry, you have reached the knowledge base request rate limit of your subscription."
    verdict = judge_outcome(Outcome(RunStatus.FAILED, error=error), billed=1, retries=1)
    assert verdict == retried(Cause.KNOWLEDGE_RATE, 60.0)


# An `error` event tells its cause by the code where it has one of these [contract §6.5]; the text is free.
RUN_CODES = {
    "provider_not_initialize": Cause.MODEL_SETUP,
    "provider_quota_exceeded": Cause.QUOTA,
    "model_currently_not_support": Cause.MODEL_SETUP,
    "rate_limit_error": Cause.QUOTA,
    "completion_request_error": Cause.MODEL_RATE,
    "internal_server_error": Cause.MODEL_RATE,
    "invalid_param": Cause.MODEL_RATE,
    None: Cause.MODEL_RATE,
}


@pytest.mark.parametrize(("code", "cause"), RUN_CODES.items(), ids=map(str, RUN_CODES))
def test_code_of_a_failed_run(code, cause):
    outcome = Outcome(RunStatus.FAILED, error="[openai] Rate Limit Error, slow down", code=code)
    verdict = judge_outcome(outcome, billed=1, retries=0)
    assert verdict == settled(cause, pause=cause in HOPELESS)


DELAYS = {0: 2, 1: 2, 2: 4, 3: 8, 4: 16, 5: 32, 6: 60, 7: 60, 2000: 60}


@pytest.mark.parametrize(("tries", "delay"), DELAYS.items(), ids=map(str, DELAYS))
def test_delay(tries, delay):
    assert retry_delay(tries) == delay


# ── runs that ended ─────────────────────────────────────────────────────────────────────────────────────────────────

ENDS = {
    "succeeded": (RunStatus.SUCCEEDED, None, Verdict(Action.SETTLE, None, RowMove.SUCCEED)),
    "succeeded, whatever the text": (RunStatus.SUCCEEDED, "timed out", Verdict(Action.SETTLE, None, RowMove.SUCCEED)),
    "partial": (RunStatus.PARTIAL, None, Verdict(Action.SETTLE, None, RowMove.SUCCEED_IN_PART)),
    "waits for a person": (RunStatus.PAUSED, None, Verdict(Action.SETTLE, Cause.NEEDS_PERSON, RowMove.ASK)),
    "stopped": (RunStatus.STOPPED, "Stopped by user.", Verdict(Action.SETTLE, Cause.STOPPED, RowMove.STOP)),
    "stopped without a word": (RunStatus.STOPPED, None, Verdict(Action.SETTLE, Cause.STOPPED, RowMove.STOP)),
    "stopped by a limit": (
        RunStatus.STOPPED,
        "Maximum execution time exceeded",
        Verdict(Action.SETTLE, Cause.LIMIT, RowMove.STOP),
    ),
    "failed because stopped": (
        RunStatus.FAILED,
        "Stopped by user.",
        Verdict(Action.SETTLE, Cause.STOPPED, RowMove.STOP),
    ),
    "failed": (RunStatus.FAILED, "Unknown error", settled(Cause.RUN_FAILED)),
    "failed without a word": (RunStatus.FAILED, None, settled(Cause.RUN_FAILED)),
    "failed at a node": (RunStatus.FAILED, "Reached maximum retries for URL http://x", settled(Cause.HTTP_NODE)),
    "failed for a moment": (RunStatus.FAILED, "timed out", retried(Cause.MODEL_DOWN, 2.0)),
    "failed for every row": (RunStatus.FAILED, "Incorrect API key", settled(Cause.MODEL_SETUP, pause=True)),
    "failed for want of money": (RunStatus.FAILED, "insufficient_quota", settled(Cause.QUOTA, pause=True)),
}


@pytest.mark.parametrize(("status", "error", "verdict"), ENDS.values(), ids=ENDS)
def test_end(status, error, verdict):
    assert judge_outcome(Outcome(status, error=error), billed=1, retries=1) == verdict


BUDGETS = {(1, 0): None, (1, 1): 2.0, (2, 1): None, (2, 2): 4.0, (3, 2): None, (3, 5): 8.0, (9, 3): None}


@pytest.mark.parametrize(("billed", "retries"), BUDGETS, ids=str)
def test_billed_retries_are_the_users_choice(billed, retries):
    delay = BUDGETS[billed, retries]
    verdict = judge_outcome(Outcome(RunStatus.FAILED, error="timed out"), billed, retries)
    assert verdict == (settled(Cause.MODEL_DOWN) if delay is None else retried(Cause.MODEL_DOWN, delay))


ERRORS = {
    "knowledge base request rate limit": Cause.KNOWLEDGE_RATE,
    "Rate Limit Error": Cause.MODEL_RATE,
    "timed out": Cause.MODEL_DOWN,
    "killed by timeout": Cause.PLUGIN,
    "QueuePool limit": Cause.DATABASE,
    "Stopped by user.": Cause.STOPPED,
    "Incorrect API key": Cause.MODEL_SETUP,
    "insufficient_quota": Cause.QUOTA,
    "maximum context": Cause.CONTEXT,
    "content_filter": Cause.MODERATION,
    "sandbox": Cause.CODE_NODE,
    "x": Cause.RUN_FAILED,
}


@pytest.mark.parametrize(("error", "cause"), ERRORS.items())
def test_only_passing_causes_are_run_again(error, cause):
    verdict = judge_outcome(Outcome(RunStatus.FAILED, error=error), 1, 5)
    assert verdict.cause is cause
    assert (verdict.action is Action.RETRY) is (cause in PASSING)
    assert verdict.pause is (cause in HOPELESS)
    assert verdict.counts


LIMITS = {
    "Dify's text": (TOO_MANY, 2),
    "another number": (TOO_MANY.replace("is 2.", "is 10."), 10),
    "no number": ("Too many requests. Please try again later.", None),
    "no text": ("", None),
    "other text": ("rate limit is 5", None),
}


@pytest.mark.parametrize(("message", "limit"), LIMITS.values(), ids=LIMITS)
def test_quoted_limit(message, limit):
    assert quoted_limit(message) == limit


# ── uploads ─────────────────────────────────────────────────────────────────────────────────────────────────────────

UPLOADS = {
    "nobody there": (failure(None, kind=FailureKind.NOT_SENT), resent(Cause.UNREACHABLE)),
    "cut": (failure(None, "reply_lost", kind=AMBIGUOUS), resent(Cause.UNREACHABLE)),
    "a proxy's 504": (failure(504, "http_504", kind=AMBIGUOUS), resent(Cause.UNREACHABLE)),
    "Dify's 500": (failure(500, "unknown", kind=ERRORED), resent(Cause.SERVER_ERROR)),
    "too many": (failure(400, "invalid_param", TOO_MANY), resent(Cause.APP_LIMIT)),
    "429": (failure(429), resent(Cause.RATE_LIMIT)),
    "wrong key": (failure(401, "unauthorized"), resent(Cause.BAD_KEY, pause=True)),
    "another site": (failure(200, "not_dify"), resent(Cause.NOT_DIFY, pause=True)),
    "too large": (failure(413, "file_too_large"), settled(Cause.TOO_LARGE)),
    "too large for the proxy": (failure(413, "request_entity_too_large"), settled(Cause.TOO_LARGE)),
    "no kind": (failure(415, "unsupported_file_type"), settled(Cause.BAD_FILE)),
    "a blocked ending": (failure(400, "invalid_param", "File extension is not allowed"), settled(Cause.BAD_FILE)),
    "no such place": (failure(404, "not_found"), settled(Cause.BAD_FILE)),
    "the copy is gone": (failure(None, "file_gone", "a.pdf"), settled(Cause.FILE_GONE)),
}


@pytest.mark.parametrize(("known", "verdict"), UPLOADS.values(), ids=UPLOADS)
def test_uploads(known, verdict):
    assert judge_upload(known, 1) == verdict


@pytest.mark.parametrize("kind", [ERRORED, AMBIGUOUS])
def test_uploads_that_never_work(kind):
    known = failure(500, kind=kind)
    actions = [judge_upload(known, errors).action for errors in range(1, UPLOAD_TRIES + 1)]
    assert actions == [Action.RESEND] * (UPLOAD_TRIES - 1) + [Action.SETTLE]
    assert judge_upload(known, UPLOAD_TRIES) == settled(Cause.UPLOAD_FAILED)
    away = failure(None, kind=FailureKind.NOT_SENT)
    assert judge_upload(away, 1000) == resent(Cause.UNREACHABLE), "a server that is away says nothing about a file"


LOST = {
    "Invalid upload file": True,
    "Invalid upload file id": True,
    "File validation failed for file: a.pdf": False,
    "": False,
}


@pytest.mark.parametrize(("message", "lost"), LOST.items())
def test_lost_uploads(message, lost):
    assert lost_upload(failure(400, "invalid_param", message)) is lost
    assert lost_upload(failure(None, "no_run_seen", message, AMBIGUOUS))
