"""The fake Dify as an ASGI app: routes, keys, bodies."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from rowmill.testing.fake_dify import answers
from rowmill.testing.fake_dify.apps import FakeApp, default_apps
from rowmill.testing.fake_dify.execution import Execution
from rowmill.testing.fake_dify.faults import Fault, Faults
from rowmill.testing.fake_dify.profiles import PROFILES
from rowmill.testing.fake_dify.runs import Ledger
from rowmill.testing.fake_dify.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

JSON = dict[str, Any]
WRONG_ROUTE = "Please check if your app mode matches the right API route."
UNAVAILABLE = "App unavailable, please check your app configurations."
BAD_REQUEST = "The browser (or proxy) sent a request that this server could not understand."
LIMITS = {
    "image_file_size_limit": 10, "video_file_size_limit": 100, "audio_file_size_limit": 50, "file_size_limit": 15,
    "workflow_file_upload_limit": 10,
}  # fmt: skip
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "svg")
MEGABYTE = 1024 * 1024


class Refusal(Exception):  # noqa: N818 -- what Dify answers
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class FakeDify:
    """See the package's docstring. Latencies in milliseconds; `celery_slots` 0 = no queue, None = as the version."""

    def __init__(
        self,
        profile: str = "1.14",
        apps: dict[str, FakeApp] | None = None,
        *,
        latency_ms: float = 0,
        jitter_ms: float = 0,
        hold_ms: float | None = None,
        celery_slots: int | None = None,
        queue_idle_s: float = 300.0,
        ledger_path: Path | None = None,
        fail_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.profile = PROFILES[profile]
        self.apps = default_apps() if apps is None else apps
        self.faults = Faults()
        self.ledger = Ledger(ledger_path)
        self.files: dict[str, JSON] = {}
        self.requests = 0
        self.execution = Execution(
            self.profile, self.ledger, self.faults,
            latency_ms=latency_ms, jitter_ms=jitter_ms, hold_ms=self.profile.hold_ms if hold_ms is None else hold_ms,
            slots=self.profile.celery_slots if celery_slots is None else celery_slots,
            queue_idle_s=queue_idle_s, fail_rate=fail_rate, seed=seed,
        )  # fmt: skip

    async def __call__(self, scope: JSON, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.requests += 1
        wire = Wire(scope, send, self.profile.version)
        try:
            await self._route(scope, receive, wire)
        except Refusal as refusal:
            body = answers.refusal(refusal.code, refusal.message, refusal.status)
            await wire.answer(refusal.status, body)

    # ── routing ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _route(self, scope: JSON, receive: Any, wire: Wire) -> None:
        path, method = scope["path"], scope["method"]
        if path.startswith("/_fake/"):
            await self._control(path, method, receive, wire)
            return
        if not path.startswith("/v1/"):
            raise Refusal(404, "not_found", "The requested URL was not found on the server.")
        if path == "/v1/":
            raise Refusal(404, "not_found", "The requested URL was not found on the server.")
        app = self._app(scope)
        parts = path.removeprefix("/v1/").strip("/").split("/")
        query = dict(parse_qsl(scope["query_string"].decode()))
        if method == "GET":
            await wire.answer(*self._get(app, parts, query))
            return
        if method != "POST":
            raise Refusal(405, "method_not_allowed", "The method is not allowed for the requested URL.")
        await self._post(app, parts, scope, receive, wire)

    def _app(self, scope: JSON) -> FakeApp:
        header = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"authorization"), "")
        scheme, _, key = header.partition(" ")
        if not key:
            raise Refusal(401, "unauthorized", "Authorization header must be provided and start with 'Bearer'")
        if scheme.lower() != "bearer":
            raise Refusal(401, "unauthorized", "Authorization scheme must be 'Bearer'")
        app = self.apps.get(key.strip())
        if app is None:
            raise Refusal(401, "unauthorized", "Access token is invalid")
        if not app.enabled:
            raise Refusal(403, "forbidden", "The app's API service has been disabled.")
        return app

    def _get(self, app: FakeApp, parts: list[str], query: dict[str, str]) -> tuple[int, bytes]:
        match parts:
            case ["info"]:
                info = {"name": app.name, "description": app.description, "tags": [], "mode": app.mode}
                return 200, orjson.dumps({**info, "author_name": "admin"})
            case ["parameters"]:
                return 200, orjson.dumps(self._parameters(app))
            case ["meta"]:
                return 200, b'{"tool_icons":{}}'
            case ["site"]:
                return 200, orjson.dumps({"title": app.name, "default_language": "en-US", "description": None})
            case ["workflows", "run", run_id]:
                return self._detail(app, run_id)
            case ["workflows", "logs"]:
                return 200, orjson.dumps(self._logs(app, query))
            case ["workflow", run_id, "events"] if self.profile.events_endpoint:
                return self._events(app, run_id, query)
            case _:
                raise Refusal(404, "not_found", "The requested URL was not found on the server.")

    def _parameters(self, app: FakeApp) -> JSON:
        if not app.published:
            raise Refusal(400, "app_unavailable", UNAVAILABLE)
        off = {"enabled": False}
        switches = ("suggested_questions_after_answer", "speech_to_text", "annotation_reply", "more_like_this")
        return {
            "opening_statement": "",
            "suggested_questions": [],
            **dict.fromkeys(switches, off),
            "text_to_speech": {**off, "language": "", "voice": ""},
            "retriever_resource": {"enabled": True},
            "user_input_form": app.form,
            "sensitive_word_avoidance": off,
            "file_upload": off,
            "system_parameters": LIMITS,
        }

    def _detail(self, app: FakeApp, run_id: str) -> tuple[int, bytes]:
        if not _is_uuid(run_id):
            raise Refusal(500, "internal_server_error", "The server encountered an internal error.")
        run = self.execution.seen(run_id)
        if run is None or run.app is not app:
            if self.profile.unknown_run == 200:  # noqa: PLR2004
                return 200, orjson.dumps(dict.fromkeys(("id", "workflow_id", "status", "inputs", "outputs")))
            raise Refusal(404, "not_found", "Workflow run not found.")
        return 200, orjson.dumps(answers.detail(run)).replace(b'"@@raw@@"', self.execution.raw.get(run_id, b'""'))

    def _events(self, app: FakeApp, run_id: str, query: dict[str, str]) -> tuple[int, bytes]:
        run = self.execution.seen(run_id) if _is_uuid(run_id) else None
        if run is None or run.app is not app or query.get("user") != run.user or run.status == "running":
            raise Refusal(404, "not_found", "Workflow run not found.")
        return 200, answers.finished(run)

    def _logs(self, app: FakeApp, query: dict[str, str]) -> JSON:
        if app.mode != "workflow":
            raise Refusal(400, "not_workflow_app", WRONG_ROUTE)
        page, limit = _integer(query, "page", 1, 99999), _integer(query, "limit", 20, 100)
        status = query.get("status")
        if status not in (None, "succeeded", "failed", "stopped"):
            raise Refusal(400, "invalid_param", f"1 validation error for WorkflowLogQuery\nstatus\n  {status!r}")
        found = self.execution.logged(app, query)
        found = [run for run in found if status is None or run.status == status]
        shown = found[(page - 1) * limit : page * limit]
        more = page * limit < len(found)
        lines = [answers.log_line(run) for run in shown]
        return {"page": page, "limit": limit, "total": len(found), "has_more": more, "data": lines}

    # ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _post(self, app: FakeApp, parts: list[str], scope: JSON, receive: Any, wire: Wire) -> None:
        if parts == ["files", "upload"]:
            await wire.answer(201, orjson.dumps(self._upload(app, scope, await _body(receive))))
            return
        if parts[-1] == "stop":
            user = (await self._json(scope, receive)).get("user")
            self.execution.stop(parts[-2], None if app.mode in ("workflow", "advanced-chat") else user)
            await wire.answer(200, b'{"result":"success"}')
            return
        body = await self._json(scope, receive)
        pinned = self._check_route(app, parts, body)
        await self.execution.start(app, body, pinned, wire, self._find_file(app, str(body.get("user"))))

    def _check_route(self, app: FakeApp, parts: list[str], body: JSON) -> str | None:
        pinned = None
        match parts:
            case ["workflows", "run"] | ["workflows", _, "run"]:
                if app.mode != "workflow":
                    raise Refusal(400, "not_workflow_app", WRONG_ROUTE)
                pinned = parts[1] if len(parts) == 3 else None  # noqa: PLR2004
            case ["chat-messages"] if app.mode not in answers.CHATS:
                raise Refusal(400, "not_chat_app", WRONG_ROUTE)
            case ["completion-messages"] if app.mode != "completion":
                raise Refusal(400, "app_unavailable", UNAVAILABLE)
            case ["chat-messages"] | ["completion-messages"]:
                pass
            case _:
                raise Refusal(404, "not_found", "The requested URL was not found on the server.")
        _check_body(app, body)
        _check_version(app, pinned)
        if not app.published:
            raise Refusal(400, "invalid_param", "Workflow not published")
        return pinned

    async def _json(self, scope: JSON, receive: Any) -> JSON:
        data = await _body(receive)
        kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
        if not kind.startswith(b"application/json"):
            text = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."
            raise Refusal(415, "unsupported_media_type", text)
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise Refusal(400, "bad_request", BAD_REQUEST) from None
        if not isinstance(body, dict):
            raise Refusal(500, "internal_server_error", "The server encountered an internal error.")
        return body

    def _upload(self, app: FakeApp, scope: JSON, data: bytes) -> JSON:
        header = next((v.decode() for k, v in scope["headers"] if k == b"content-type"), "")
        boundary = header.partition("boundary=")[2].strip('"').encode()
        parts = _multipart(data, boundary) if boundary else []
        files = [part for part in parts if part[0] == "file"]
        if not files:
            raise Refusal(400, "no_file_uploaded", "Please upload your file.")
        if len(files) > 1:
            raise Refusal(400, "too_many_files", "Only one file is allowed.")
        _, name, content = files[0]
        user = next((value.decode() for field, _, value in parts if field == "user"), "DEFAULT-USER")
        ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if len(content) > (10 if ending in IMAGES else 15) * MEGABYTE:
            raise Refusal(413, "file_too_large", "")
        file_id = str(uuid.uuid4())
        kind = "image" if ending in IMAGES else "document"
        self.files[file_id] = {"name": name, "kind": kind, "size": len(content), "owner": (app.key, user)}
        known = {"id": file_id, "name": name, "size": len(content), "extension": ending}
        empty = dict.fromkeys(("preview_url", "original_url", "user_id", "conversation_id", "file_key"))
        more = {"mime_type": "application/octet-stream", "created_by": file_id, "created_at": 1795471013}
        return {**known, **more, "source_url": f"http://127.0.0.1:5001/files/{file_id}", "tenant_id": "t", **empty}

    def _find_file(self, app: FakeApp, user: str) -> Any:
        def find(file_id: str) -> JSON | None:
            known = self.files.get(file_id)
            return known if known is not None and known["owner"] == (app.key, user) else None

        return find

    # ── control by tests in other processes ─────────────────────────────────────────────────────────────────────

    async def _control(self, path: str, method: str, receive: Any, wire: Wire) -> None:
        match path, method:
            case "/_fake/ledger", "GET":
                runs = [{f: getattr(run, f) for f in run.__slots__} for run in self.ledger.runs]
                await wire.answer(200, orjson.dumps(runs, default=str))
            case "/_fake/faults", "POST":
                self.faults.add(*(Fault(**item) for item in orjson.loads(await _body(receive))))
                await wire.answer(200, b"{}")
            case "/_fake/faults", "DELETE":
                self.faults.clear()
                await wire.answer(200, b"{}")
            case "/_fake/settings", "POST":
                self._set(orjson.loads(await _body(receive)))
                await wire.answer(200, b"{}")
            case _:
                await wire.answer(404, b"{}")

    def _set(self, settings: JSON) -> None:
        self.execution.latency = float(settings.get("latency_ms", self.execution.latency * 1000)) / 1000
        for key, changes in settings.get("apps", {}).items():
            app = self.apps[key]
            if changes.pop("republish", False):
                app.republish()
            for name, value in changes.items():
                setattr(app, name, value)


def _check_body(app: FakeApp, body: JSON) -> None:
    name = "WorkflowRunPayload" if app.mode == "workflow" else "ChatRequestPayload"
    if not body.get("user"):
        raise Refusal(400, "invalid_param", "Arg user must be provided.")
    if not isinstance(body.get("inputs"), dict):
        what = "Input should be a valid dictionary" if "inputs" in body else "Field required"
        raise Refusal(400, "invalid_param", f"1 validation error for {name}\ninputs\n  {what}")
    if body.get("response_mode") not in (None, "blocking", "streaming"):
        what = "Input should be 'blocking' or 'streaming'"
        raise Refusal(400, "invalid_param", f"1 validation error for {name}\nresponse_mode\n  {what}")
    if app.mode in answers.CHATS:
        if "query" not in body:
            raise Refusal(400, "invalid_param", f"1 validation error for {name}\nquery\n  Field required")
        if not body["query"]:
            raise Refusal(400, "invalid_param", "query is required")
        if app.mode == "agent-chat" and body.get("response_mode") != "streaming":
            raise Refusal(400, "invalid_param", "Agent Chat App does not support blocking mode")


def _check_version(app: FakeApp, pinned: str | None) -> None:
    if pinned is None:
        return
    if not _is_uuid(pinned):
        raise Refusal(400, "bad_request", f"Invalid workflow_id format: '{pinned}'. ")
    if pinned not in app.versions:
        raise Refusal(404, "not_found", f"Workflow not found with id: {pinned}")


def _integer(query: dict[str, str], name: str, default: int, most: int) -> int:
    try:
        number = int(query.get(name, default))
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise Refusal(400, "invalid_param", f"1 validation error for WorkflowLogQuery\n{name}\n  out of range")
    return number


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


async def _body(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _multipart(data: bytes, boundary: bytes) -> list[tuple[str, str, bytes]]:
    """(field, file name, content) of each part."""
    parts: list[tuple[str, str, bytes]] = []
    for piece in data.split(b"--" + boundary)[1:-1]:
        head, _, content = piece.strip(b"\r\n").partition(b"\r\n\r\n")
        if piece.endswith(b"\r\n\r\n\r\n"):
            content = b""
        field = re.search(rb'[ ;]name="([^"]*)"', head)
        name = re.search(rb'filename="([^"]*)"', head)
        parts.append((field.group(1).decode() if field else "", name.group(1).decode() if name else "", content))
    return parts
