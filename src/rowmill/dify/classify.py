"""HTTP answers that are no success, and exceptions of the transport -> Failure (contract §5, reliability.md R5)."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import aiohttp

from rowmill.dify.raw import clean_text, read_json
from rowmill.domain.verdict import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Mapping

# An error text can be a page of HTML; this much of it tells what it is.
LONGEST_MESSAGE = 2000


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """What an answer that is no 2xx (or no Dify answer at all) means for the run that was asked for."""
    error = _dify_error(body)
    message = (clean_text((error or {}).get("message") or (error or {}).get("error")) or "")[:LONGEST_MESSAGE]
    wait = read_retry_after(headers.get("Retry-After"), headers.get("Date"))
    if error is None or 300 <= status < 400:  # noqa: PLR2004
        return _not_dify(status, headers, body, wait)
    code = clean_text(error.get("code"))
    if code is None and status >= 500:  # noqa: PLR2004
        # JSON, but not Dify's: a gateway that has stopped waiting says so too.
        return Failure(FailureKind.AMBIGUOUS, f"http_{status}", message, status, wait)
    return Failure(_kind(status), code or f"http_{status}", message, status, wait)


def _dify_error(body: bytes) -> dict[str, Any] | None:
    try:
        error = read_json(body)
    except ValueError:
        return None
    return error if isinstance(error, dict) else None


def _kind(status: int) -> FailureKind:
    """Dify itself answered in JSON: 502 and 504 are never its own words. A success of another kind than 200, or JSON
    that is not called so, may stand for a run."""
    if status < 300 or status in (502, 504) or status >= 520:  # noqa: PLR2004
        return FailureKind.AMBIGUOUS
    if status >= 500 and status != 503:  # noqa: PLR2004
        return FailureKind.ERRORED
    return FailureKind.REFUSED


def _not_dify(status: int, headers: Mapping[str, str], body: bytes, wait: float | None) -> Failure:
    text = body[:LONGEST_MESSAGE].decode("utf-8", "replace")
    shown = _strip_html(text)
    if 300 <= status < 400:  # noqa: PLR2004
        return Failure(FailureKind.REFUSED, "redirected", _origin(headers.get("Location", "")), status)
    if status == 429:  # noqa: PLR2004
        return Failure(FailureKind.REFUSED, "edge_1015" if "1015" in text else "http_429", shown, status, wait)
    if status == 413:  # noqa: PLR2004
        return Failure(FailureKind.REFUSED, "request_entity_too_large", shown, status)
    if status < 300 and not _is_html(headers, text):  # noqa: PLR2004
        return Failure(FailureKind.AMBIGUOUS, "reply_unreadable", shown, status)
    if status >= 500:  # noqa: PLR2004
        # A proxy speaks for a Dify that it could not reach, or that it stopped waiting for: the run may be alive.
        return Failure(FailureKind.AMBIGUOUS, f"http_{status}", shown, status, wait)
    return Failure(FailureKind.REFUSED, "not_dify", shown, status)


def _is_html(headers: Mapping[str, str], text: str) -> bool:
    """A login page or another site: whoever writes HTML has run nothing."""
    return "html" in headers.get("Content-Type", "").lower() or text.lstrip("\ufeff \t\r\n").startswith("<")


def _strip_html(text: str) -> str:
    words = re.sub(r"<(script|style)[^>]*>.*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"\s+", " ", words).strip()[:200]


def _origin(location: str) -> str:
    """Where a redirect leads, without a path, query or password that could hold a secret."""
    match = re.match(r"(https?://)(?:[^/?#]*@)?([^/?#@]+)", location, re.IGNORECASE)
    return match.group(1) + match.group(2) if match else "another path"


def read_retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds from a Retry-After of either form; None for junk. An HTTP date counts from the answer's own Date."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[+-]?\d{1,12}(\.\d+)?", text):
        return max(0.0, float(text))
    until, now = read_http_date(text), read_http_date(date)
    return max(0.0, until - now) if until is not None and now is not None else None


@lru_cache(maxsize=8)  # a hundred answers a second carry the same one
def read_http_date(value: str | None) -> float | None:
    """Unix seconds of an HTTP date, or None."""
    try:
        date = email.utils.parsedate_to_datetime(value or "")
        # HTTP dates are GMT, even where that word is missing.
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def read_exception(error: BaseException, *, sent: bool) -> Failure:
    """What an exception of the transport means. `sent`: whether bytes of the request may have left."""
    if isinstance(error, aiohttp.InvalidURL):
        return Failure(FailureKind.NOT_SENT, "url_invalid", "")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return Failure(FailureKind.NOT_SENT, "tls_refused", str(error)[:300])
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure(FailureKind.NOT_SENT, "name_unknown", error.host)
    if isinstance(error, aiohttp.ClientConnectorError) or not sent:
        return Failure(FailureKind.NOT_SENT, "connection_refused", _reason(error))
    return Failure(FailureKind.AMBIGUOUS, "reply_lost", _reason(error))


def _reason(error: BaseException) -> str:
    inner = getattr(error, "os_error", None)
    return (inner.strerror if isinstance(inner, OSError) and inner.strerror else "") or type(error).__name__
