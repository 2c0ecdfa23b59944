"""The fake Dify as an ASGI app: routes, keys, bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from rowmill.testing.fake_dify import answers, pages
from rowmill.testing.fake_dify.apps import FakeApp, default_apps
from rowmill.testing.fake_dify.bodies import (
    Refusal,
    check_body,
    check_version,
    crash,
    integer,
    is_uuid,
    log_query,
    read_json,
)
from rowmill.testing.fake_dify.chats import UnknownConversationError
from rowmill.testing.fake_dify.execution import Execution
from rowmill.testing.fake_dify.faults import Fault, Faults
from rowmill.testing.fake_dify.links import Links
from rowmill.testing.fake_dify.profiles import PROFILES
from rowmill.testing.fake_dify.runs import CHATS, Ledger
from rowmill.testing.fake_dify.uploads import accept, strike
from rowmill.testing.fake_dify.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

JSON = dict[str, Any]
WRONG_ROUTE = "Please check if your app mode matches the right API route."
NO_METHOD = "The method is not allowed for the requested URL."
UNAVAILABLE = "App unavailable, please check your app configurations."


class FakeDify:
    """See the package's docstring. Latencies in milliseconds; `celery_slots` 0 = no queue, None = as the version;
    `files_url` as in Links."""

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
        files_url: str | None = None,
        link_life_s: float = 300.0,
        fail_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.profile = PROFILES[profile]
        self.apps = default_apps() if apps is None else apps
        self.faults = Faults()
        self.ledger = Ledger(ledger_path)
        self.files: dict[str, JSON] = {}
        self.links = Links(self.files, files_url, link_life_s)
        self.requests = 0
        self.execution = Execution(
            self.profile, self.ledger, self.faults, self.links.make,
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
        await wire.hung_up()

    # ── routing ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _route(self, scope: JSON, receive: Any, wire: Wire) -> None:
        path, method = scope["path"], scope["method"]
        if path.startswith("/_fake/"):
            await self._control(path, method, receive, wire)
            return
        self.links.called = _header(scope, b"host").decode("latin-1")
        query = dict(parse_qsl(scope["query_string"].decode()))
        if path.startswith("/files/") and method == "GET":
            fault = self.faults.strike_download(path)
            await self.links.serve(path, query, fault, wire, key=bool(_header(scope, b"authorization")))
            return
        if not path.startswith("/v1/") or path == "/v1/":
            await wire.answer(404, pages.NOT_FOUND_PAGE, "text/html; charset=utf-8")
            return
        app = self._app(scope)
        parts = path.removeprefix("/v1/").strip("/").split("/")
        if method == "GET":
            await wire.answer(*self._get(app, parts, query))
            return
        if method != "POST":
            raise Refusal(405, "method_not_allowed", NO_METHOD)
        await self._post(app, parts, scope, receive, wire)

    def _app(self, scope: JSON) -> FakeApp:
        header = _header(scope, b"authorization").decode("latin-1")
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
                return 200, orjson.dumps(pages.info(app))
            case ["parameters"]:
                if not app.published:
                    raise Refusal(400, "app_unavailable", UNAVAILABLE)
                return 200, orjson.dumps(pages.parameters(app))
            case ["meta"]:
                return 200, b'{"tool_icons":{}}'
            case ["site"]:
                return 200, orjson.dumps(pages.site(app))
            case ["conversations" | "messages" as what]:
                return 200, orjson.dumps(self._said(app, what, query))
            case ["workflows", "run"] | ["chat-messages"] | ["completion-messages"] | ["files", "upload"]:
                raise Refusal(405, "method_not_allowed", NO_METHOD)
            case ["workflows", "run", run_id]:
                return self._detail(app, run_id)
            case ["workflows", "logs"]:
                return 200, orjson.dumps(self._logs(app, query))
            case ["workflow", run_id, "events"] if self.profile.events_endpoint:
                return self._events(app, run_id, query)
            case _:
                raise Refusal(404, "not_found", pages.NOT_FOUND_TEXT)

    def _said(self, app: FakeApp, what: str, query: dict[str, str]) -> JSON:
        if app.mode not in CHATS:
            raise Refusal(400, "not_chat_app", WRONG_ROUTE)
        user = query.get("user", "")
        if what == "conversations":
            limit = integer("ConversationListQuery", query, "limit", 20, 100)
            return self.execution.chats.conversations(app, user, limit)
        limit = integer("MessageListQuery", query, "limit", 20, 100)
        try:
            return self.execution.chats.messages(app, user, query.get("conversation_id", ""), limit)
        except UnknownConversationError as unknown:
            raise Refusal(404, "not_found", str(unknown)) from None

    def _detail(self, app: FakeApp, run_id: str) -> tuple[int, bytes]:
        if not is_uuid(run_id):
            raise crash()
        run = self.execution.seen(run_id)
        if run is None or run.app is not app:
            if self.profile.unknown_run == 200:  # noqa: PLR2004
                return 200, orjson.dumps(dict.fromkeys(("id", "workflow_id", "status", "inputs", "outputs")))
            raise Refusal(404, "not_found", "Workflow run not found.")
        return 200, orjson.dumps(answers.detail(run)).replace(b'"@@raw@@"', self.execution.raw.get(run_id, b'""'))

    def _events(self, app: FakeApp, run_id: str, query: dict[str, str]) -> tuple[int, bytes]:
        run = self.execution.seen(run_id) if is_uuid(run_id) else None
        if run is None or run.app is not app or query.get("user") != run.user or run.status == "running":
            raise Refusal(404, "not_found", "Workflow run not found.")
        return 200, answers.finished(run)

    def _logs(self, app: FakeApp, query: dict[str, str]) -> JSON:
        if app.mode != "workflow":
            raise Refusal(400, "not_workflow_app", WRONG_ROUTE)
        page, limit, status = log_query(query)
        found = self.execution.logged(app, query)
        found = [run for run in found if status is None or run.status == status]
        shown = found[(page - 1) * limit : page * limit]
        more = page * limit < len(found)
        lines = [answers.log_line(run) for run in shown]
        return {"page": page, "limit": limit, "total": len(found), "has_more": more, "data": lines}

    # ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _post(self, app: FakeApp, parts: list[str], scope: JSON, receive: Any, wire: Wire) -> None:
        if parts == ["files", "upload"]:
            await self._upload(app, scope, receive, wire)
            return
        if parts[-1] == "stop":
            user = (await self._json(scope, receive)).get("user")
            self.execution.stop(parts[-2], None if app.mode in ("workflow", "advanced-chat") else user)
            await wire.answer(200, b'{"result":"success"}')
            return
        if parts[:2] == ["form", "human_input"] and self.profile.asks_people:
            if not self.execution.answer_form(parts[-1], (await self._json(scope, receive)).get("action", "")):
                raise Refusal(412, "human_input_form_submitted", "This form was answered already.")
            await wire.answer(200, b"{}")
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
            case ["chat-messages"] if app.mode not in CHATS:
                raise Refusal(400, "not_chat_app", WRONG_ROUTE)
            case ["completion-messages"] if app.mode != "completion":
                raise Refusal(400, "app_unavailable", UNAVAILABLE)
            case ["chat-messages"] if app.mode == "advanced-chat":
                pinned = body.get("workflow_id")
            case ["chat-messages"] | ["completion-messages"]:
                pass
            case _:
                raise Refusal(404, "not_found", pages.NOT_FOUND_TEXT)
        check_body(app, body)
        check_version(app, pinned)
        if not app.published:
            raise Refusal(400, "invalid_param", "Workflow not published")
        return pinned

    async def _json(self, scope: JSON, receive: Any) -> JSON:
        return read_json(_header(scope, b"content-type"), await _body(receive))

    async def _upload(self, app: FakeApp, scope: JSON, receive: Any, wire: Wire) -> None:
        fault = self.faults.strike_upload(app.key)
        kind = _header(scope, b"content-type").decode()
        if fault is not None and fault.kind == "upload_status":
            # Servers read to the end even what they refuse: who still writes would see a reset instead of the answer.
            while (await receive()).get("more_body"):
                pass
        if fault is not None and await strike(fault, wire):
            return
        data = await _body(receive)
        entry, known, answer = accept(app, kind, data, self.links.to_upload)
        self.files[entry.file_id] = known
        self.ledger.uploads.append(entry)
        if fault is not None and fault.kind == "upload_cut":
            wire.abort()
        await wire.answer(201, orjson.dumps(answer))

    def _find_file(self, app: FakeApp, user: str) -> Any:
        def find(file_id: str) -> JSON | None:
            known = self.files.get(file_id)
            if known is None or known["owner"] != (app.key, user):
                return None
            return {**known, "url": self.links.to_upload(file_id)}

        return find

    # ── control by tests in other processes ─────────────────────────────────────────────────────────────────────

    async def _control(self, path: str, method: str, receive: Any, wire: Wire) -> None:
        match path, method:
            case "/_fake/ledger", "GET":
                runs = [{f: getattr(run, f) for f in run.__slots__} for run in self.ledger.runs]
                await wire.answer(200, orjson.dumps(runs, default=str))
            case "/_fake/uploads", "GET":
                await wire.answer(200, orjson.dumps(self.ledger.uploads))
            case "/_fake/faults", "POST":
                self.faults.add(*(Fault(**item) for item in orjson.loads(await _body(receive))))
                await wire.answer(200, b"{}")
            case "/_fake/faults", "DELETE":
                self.faults.clear()
                await wire.answer(200, b"{}")
            case "/_fake/republish", "POST":
                await wire.answer(200, orjson.dumps(self._republish(orjson.loads(await _body(receive) or b"{}"))))
            case "/_fake/settings", "POST":
                self._set(orjson.loads(await _body(receive)))
                await wire.answer(200, b"{}")
            case _:
                await wire.answer(404, b"{}")

    def _republish(self, asked: JSON) -> JSON:
        """`app`: its key, or else all of them; `after`: when so many more runs have been started."""
        apps = [self.apps[asked["app"]]] if "app" in asked else list(self.apps.values())
        for app in apps:
            if "after" in asked:
                app.republish_after = int(asked["after"])
            else:
                app.republish()
        return {app.key: app.workflow_id for app in apps}

    def _set(self, settings: JSON) -> None:
        self.execution.latency = float(settings.get("latency_ms", self.execution.latency * 1000)) / 1000
        for key, changes in settings.get("apps", {}).items():
            app = self.apps[key]
            if changes.pop("republish", False):
                app.republish()
            for name, value in changes.items():
                setattr(app, name, value)


def _header(scope: JSON, wanted: bytes) -> bytes:
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found


async def _body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
