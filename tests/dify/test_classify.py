"""Answers that are no success, and what they say about the run."""

from __future__ import annotations

import json
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from rowmill.dify.classify import LONGEST_MESSAGE, read_error, read_exception, read_http_date, read_retry_after
from rowmill.domain.causes import Cause
from rowmill.domain.verdict import Failure, FailureKind, cause_of_failure

REFUSED, ERRORED, AMBIGUOUS, NOT_SENT = (
    FailureKind.REFUSED,
    FailureKind.ERRORED,
    FailureKind.AMBIGUOUS,
    FailureKind.NOT_SENT,
)
BUSY = "Too many requests. Please try again later. The current maximum concurrent requests allowed for a is 2."


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "cause"),
    [
        (400, "invalid_param", "query is required in input form", REFUSED, Cause.BAD_INPUT),
        (400, "invalid_param", "Arg user must be provided.", REFUSED, Cause.BAD_INPUT),
        (400, "invalid_param", "Workflow not published", REFUSED, Cause.UNPUBLISHED),
        (400, "invalid_param", BUSY, REFUSED, Cause.APP_LIMIT),
        (429, "too_many_requests", BUSY, REFUSED, Cause.APP_LIMIT),
        (400, "bad_request", "no JSON", REFUSED, Cause.BAD_INPUT),
        (400, "not_workflow_app", "", REFUSED, Cause.WRONG_MODE),
        (400, "not_chat_app", "", REFUSED, Cause.WRONG_MODE),
        (400, "not_completion_app", "", REFUSED, Cause.WRONG_MODE),
        (400, "app_unavailable", "", REFUSED, Cause.UNPUBLISHED),
        (400, "agent_not_published", "", REFUSED, Cause.UNPUBLISHED),
        (400, "provider_not_initialize", "", REFUSED, Cause.MODEL_SETUP),
        (400, "provider_quota_exceeded", "", REFUSED, Cause.QUOTA),
        (400, "model_currently_not_support", "", REFUSED, Cause.MODEL_SETUP),
        (400, "completion_request_error", "[x] Rate Limit Error", REFUSED, Cause.MODEL_RATE),
        (400, "conversation_completed", "ended", REFUSED, Cause.CONVERSATION_GONE),
        (401, "unauthorized", "Access token is invalid", REFUSED, Cause.BAD_KEY),
        (403, "forbidden", "The app's API service has been disabled.", REFUSED, Cause.FORBIDDEN),
        (403, "workflow_version_execution_not_allowed", "", REFUSED, Cause.VERSION_REFUSED),
        (404, "not_found", "Workflow not found", REFUSED, Cause.VERSION_GONE),
        (404, "not_found", "Conversation Not Exists.", REFUSED, Cause.CONVERSATION_GONE),
        (413, "file_too_large", "", REFUSED, Cause.TOO_LARGE),
        (415, "unsupported_file_type", "", REFUSED, Cause.BAD_FILE),
        (415, "unsupported_media_type", "", REFUSED, Cause.BAD_INPUT),
        (429, "rate_limit_error", "Workflow execution quota limit reached", REFUSED, Cause.QUOTA),
        (500, "internal_server_error", "Internal Server Error", ERRORED, Cause.SERVER_ERROR),
        (500, "unknown", "Internal Server Error", ERRORED, Cause.SERVER_ERROR),
        (501, "not_implemented", "", ERRORED, Cause.SERVER_ERROR),
        (502, "bad_gateway", "", AMBIGUOUS, Cause.SERVER_ERROR),
        (503, "service_unavailable", "", REFUSED, Cause.UNREACHABLE),
        (504, "gateway_timeout", "", AMBIGUOUS, Cause.SERVER_ERROR),
        (520, "unknown", "", AMBIGUOUS, Cause.SERVER_ERROR),
        (524, "unknown", "", AMBIGUOUS, Cause.SERVER_ERROR),
        (202, "accepted", "workflow_maintenance_paused", AMBIGUOUS, Cause.REPLY_LOST),
        (200, "odd", "", AMBIGUOUS, Cause.REPLY_LOST),
    ],
)
def test_dify_says(status: int, code: str, message: str, kind: FailureKind, cause: Cause) -> None:
    body = json.dumps({"code": code, "message": message, "status": status}).encode()
    failure = read_error(status, {"Content-Type": "application/json"}, body)
    assert failure == Failure(kind, code, message, status)
    assert cause_of_failure(failure) is cause


NGINX = b"<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n<center><h1>%s</h1></center><hr></body></html>"
CLOUDFLARE = (
    b"<!DOCTYPE html><html><head><title>x</title><style>.a{b:c}</style><script>var app='x'</script></head><body>%s"
)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "shown"),
    [
        (413, NGINX % ((b"413 Request Entity Too Large",) * 2), REFUSED, "request_entity_too_large", "413 Request"),
        (502, NGINX % ((b"502 Bad Gateway",) * 2), AMBIGUOUS, "http_502", "502 Bad Gateway"),
        (503, NGINX % ((b"503 Service",) * 2), AMBIGUOUS, "http_503", "503 Service"),
        (504, NGINX % ((b"504 Gateway Time-out",) * 2), AMBIGUOUS, "http_504", "504 Gateway"),
        (500, b"", AMBIGUOUS, "http_500", ""),
        (524, CLOUDFLARE % b"Error 524", AMBIGUOUS, "http_524", "x Error 524"),
        (429, CLOUDFLARE % b"error code: 1015", REFUSED, "edge_1015", "x error code: 1015"),
        (429, b"error code: 1015", REFUSED, "edge_1015", "error code: 1015"),
        (429, NGINX % ((b"429 Too Many Requests",) * 2), REFUSED, "http_429", "429 Too Many"),
        (400, NGINX % ((b"400 The plain HTTP request was sent to HTTPS port",) * 2), REFUSED, "not_dify", "400 The"),
        (401, b"login", REFUSED, "not_dify", "login"),
        (404, b"<html>404</html>", REFUSED, "not_dify", "404"),
        (404, b"[]", REFUSED, "not_dify", "[]"),
        (200, b"<html>Welcome to the hotel</html>", REFUSED, "not_dify", "Welcome to the hotel"),
        (200, b"\n \xef\xbb\xbf<!DOCTYPE html>Hi", REFUSED, "not_dify", "\ufeff Hi"),
        (200, b"data: {}", AMBIGUOUS, "reply_unreadable", "data: {}"),
        (200, b"", AMBIGUOUS, "reply_unreadable", ""),
        (204, b"", AMBIGUOUS, "reply_unreadable", ""),
        (502, b"\xff\xfe", AMBIGUOUS, "http_502", "\ufffd\ufffd"),
    ],
)
def test_somebody_else_says(status: int, body: bytes, kind: FailureKind, code: str, shown: str) -> None:
    failure = read_error(status, {}, body)
    assert (failure.kind, failure.code, failure.status) == (kind, code, status)
    assert failure.message.startswith(shown)
    assert failure.message or not shown
    assert "var app" not in failure.message
    assert "<" not in failure.message


def test_html_is_known_by_its_type() -> None:
    assert read_error(200, {"Content-Type": "Text/HTML; charset=utf-8"}, b"Welcome").kind is REFUSED
    assert read_error(200, {"Content-Type": "text/plain"}, b"Welcome").kind is AMBIGUOUS


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"message": "m"}, "http_400", "m"),
        ({"error": "e"}, "http_400", "e"),
        ({"message": None, "code": None}, "http_400", ""),
        ({"code": 7, "message": {"a": 1}}, "7", "{'a': 1}"),
        ({}, "http_400", ""),
        ({"message": "a\ud800"}, "http_400", "a\ufffd"),
        ({"message": "x" * 5000}, "http_400", "x" * LONGEST_MESSAGE),
    ],
)
def test_odd_error_bodies(body: dict[str, Any], code: str, message: str) -> None:
    assert read_error(400, {}, json.dumps(body).encode()) == Failure(REFUSED, code, message, 400)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message": "Moved"}'])
@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://other.test/login?token=s3cret", "https://other.test"),
        ("HTTPS://other.test:8443#s3cret", "HTTPS://other.test:8443"),
        ("https://me:s3cret@other.test/", "https://other.test"),
        ("/v1/login?s3cret", "another path"),
        (None, "another path"),
    ],
)
def test_redirects(status: int, body: bytes, location: str | None, told: str) -> None:
    failure = read_error(status, {} if location is None else {"Location": location}, body)
    assert failure == Failure(REFUSED, "redirected", told, status)
    assert cause_of_failure(failure) is Cause.REDIRECTED


NOW = "Wed, 21 Oct 2015 07:28:00 GMT"
SOON = "Wed, 21 Oct 2015 07:29:30 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, NOW, None),
        ("120", None, 120.0),
        (" 120 ", None, 120.0),
        ("1.5", None, 1.5),
        ("0", None, 0.0),
        ("-1", None, 0.0),
        ("+5", None, 5.0),
        ("1000000000", None, 1e9),
        ("1e9", NOW, None),
        ("9" * 400, NOW, None),
        ("soon", NOW, None),
        ("", NOW, None),
        ("nan", NOW, None),
        ("inf", NOW, None),
        ("1, 2", NOW, None),
        (SOON, NOW, 90.0),
        (NOW, SOON, 0.0),
        (SOON, None, None),
        (SOON, "yesterday", None),
        ("Wednesday, 21-Oct-15 07:29:30 GMT", NOW, 90.0),
        ("Wed Oct 21 07:29:30 2015", NOW, 90.0),
        ("Wed, 99 Oct 2015 07:29:30 GMT", NOW, None),
    ],
)
def test_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, date) == seconds


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("body", [b"<html>busy</html>", b'{"code": "x"}'])
def test_retry_after_is_told(status: int, body: bytes) -> None:
    assert read_error(status, {"Retry-After": SOON, "Date": NOW}, body).retry_after == 90.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (NOW, 1445412480.0),
        ("Wed, 21 Oct 2015 07:28:00", 1445412480.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 1445412480.0),
        ("Wed, 21 Oct 2015 09:28:00 +0200", 1445412480.0),
        ("2015-10-21T07:28:00Z", None),
        ("", None),
        (None, None),
        ("\x00", None),
    ],
)
def test_http_date(text: str | None, seconds: float | None) -> None:
    assert read_http_date(text) == seconds


SOMEWHERE = ConnectionKey("dify.test", 443, True, True, None, None, None)
CERTIFICATE = ssl.SSLCertVerificationError("certificate has expired")
NoConnection, NoName = aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError
REFUSED_THERE = "connection_refused"
REFUSAL = ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("error", "sent", "expected"),
    [
        (aiohttp.InvalidURL("http://u:s3cret@x"), True, Failure(NOT_SENT, "url_invalid")),
        (NoName(SOMEWHERE, OSError(-2, "x")), True, Failure(NOT_SENT, "name_unknown", "dify.test")),
        (NoConnection(SOMEWHERE, REFUSAL), True, Failure(NOT_SENT, REFUSED_THERE, "Connection refused")),
        (NoConnection(SOMEWHERE, OSError()), True, Failure(NOT_SENT, REFUSED_THERE, "ClientConnectorError")),
        (ValueError("s3cret"), False, Failure(NOT_SENT, REFUSED_THERE, "ValueError")),
        (aiohttp.ServerDisconnectedError(), True, Failure(AMBIGUOUS, "reply_lost", "ServerDisconnectedError")),
        (aiohttp.ServerDisconnectedError(), False, Failure(NOT_SENT, REFUSED_THERE, "ServerDisconnectedError")),
        (aiohttp.ClientOSError(104, "reset"), True, Failure(AMBIGUOUS, "reply_lost", "ClientOSError")),
        (aiohttp.ClientPayloadError("cut"), True, Failure(AMBIGUOUS, "reply_lost", "ClientPayloadError")),
    ],
)
def test_exceptions(error: BaseException, sent: bool, expected: Failure) -> None:
    assert read_exception(error, sent=sent) == expected


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectorCertificateError(SOMEWHERE, CERTIFICATE),
        aiohttp.ClientConnectorSSLError(SOMEWHERE, ssl.SSLError(1, "wrong version number")),
    ],
)
def test_tls(error: BaseException) -> None:
    failure = read_exception(error, sent=True)
    assert (failure.kind, failure.code) == (NOT_SENT, "tls_refused")
    assert "dify.test" in failure.message
