"""How Dify judges a request before it looks at the inputs: the same order and words."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import orjson

from rowmill.testing.fake_dify.runs import CHATS

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.apps import FakeApp

BAD_REQUEST = "The browser (or proxy) sent a request that this server could not understand."
NOT_JSON = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."
LOG_STATUSES = ("succeeded", "failed", "stopped")


class Refusal(Exception):  # noqa: N818 -- what Dify answers
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def crash() -> Refusal:
    """What Dify says where it has no words."""
    return Refusal(500, "unknown", "Internal Server Error")


def _invalid(model: str, field: str, complaint: str, kind: str, value: Any) -> Refusal:
    """As pydantic words it."""
    line = f"{complaint} [type={kind}, input_value={value!r}, input_type={type(value).__name__}]"
    more = f"    For further information visit https://errors.pydantic.dev/2.12/v/{kind}"
    return Refusal(400, "invalid_param", f"1 validation error for {model}\n{field}\n  {line}\n{more}")


def read_json(content_type: bytes, data: bytes) -> dict[str, Any]:
    if not content_type.startswith(b"application/json"):
        raise Refusal(415, "unsupported_media_type", NOT_JSON)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Refusal(400, "bad_request", BAD_REQUEST) from None
    if not isinstance(body, dict):
        raise crash()
    return body


def check_body(app: FakeApp, body: dict[str, Any]) -> None:
    model = "WorkflowRunPayload" if app.mode == "workflow" else "ChatRequestPayload"
    if not body.get("user"):
        raise Refusal(400, "invalid_param", "Arg user must be provided.")
    if "inputs" not in body:
        raise _invalid(model, "inputs", "Field required", "missing", body)
    if not isinstance(body["inputs"], dict):
        raise _invalid(model, "inputs", "Input should be a valid dictionary", "dict_type", body["inputs"])
    mode = body.get("response_mode")
    if mode not in (None, "blocking", "streaming"):
        raise _invalid(model, "response_mode", "Input should be 'blocking' or 'streaming'", "literal_error", mode)
    if app.mode in CHATS:
        _check_chat(app, body, model)


def _check_chat(app: FakeApp, body: dict[str, Any], model: str) -> None:
    if "query" not in body:
        raise _invalid(model, "query", "Field required", "missing", body)
    if not body["query"]:
        raise Refusal(400, "invalid_param", "query is required")
    conversation = body.get("conversation_id")
    if conversation and not is_uuid(str(conversation)):
        complaint = "Value error, conversation_id must be a valid UUID"
        raise _invalid(model, "conversation_id", complaint, "value_error", conversation)
    if app.mode == "agent-chat" and body.get("response_mode") != "streaming":
        raise Refusal(400, "invalid_param", "Agent Chat App does not support blocking mode")


def check_version(app: FakeApp, pinned: str | None) -> None:
    if pinned is None:
        return
    if not is_uuid(pinned):
        raise Refusal(400, "bad_request", f"Invalid workflow_id format: '{pinned}'. ")
    if pinned not in app.versions:
        raise Refusal(404, "not_found", f"Workflow not found with id: {pinned}")


def log_query(query: dict[str, str]) -> tuple[int, int, str | None]:
    """(page, limit, status)."""
    model = "WorkflowLogQuery"
    page, limit = integer(model, query, "page", 1, 99999), integer(model, query, "limit", 20, 100)
    status = query.get("status")
    if status is not None and status not in LOG_STATUSES:
        complaint = "Input should be 'succeeded', 'failed' or 'stopped'"
        raise _invalid(model, "status", complaint, "literal_error", status)
    for name in ("created_at__after", "created_at__before"):
        if (moment := query.get(name)) and not moment[:4].isdigit():
            text = f"invalid literal for int() with base 10: {moment[:4].encode()!r}"
            raise Refusal(400, "invalid_param", text)
    return page, limit, status


def integer(model: str, query: dict[str, str], name: str, default: int, most: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        complaint = "Input should be a valid integer, unable to parse string as an integer"
        raise _invalid(model, name, complaint, "int_parsing", value) from None
    if number > most:
        raise _invalid(model, name, f"Input should be less than or equal to {most}", "less_than_equal", value)
    if number < 1:
        raise _invalid(model, name, "Input should be greater than or equal to 1", "greater_than_equal", value)
    return number


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
