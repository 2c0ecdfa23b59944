"""One Dify app over HTTP: one call each, nothing retried, no redirect followed, the key only in its header."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from rowmill.dify.classify import read_error, read_exception, read_http_date
from rowmill.dify.connector import ON_SEND, Connector
from rowmill.dify.events import RunReader, read_blocking, read_detail
from rowmill.dify.files import SignedLinks, upload_form
from rowmill.dify.logged import read_inputs, read_logged
from rowmill.dify.raw import read_json
from rowmill.dify.sse import LARGEST_EVENT, EventDecoder
from rowmill.dify.talk import read_conversation, read_said
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import (
    Conversation,
    Finished,
    LoggedRun,
    OnSend,
    Opened,
    RunDetail,
    RunEvent,
    RunRequest,
    Said,
    Uploaded,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

    from rowmill.domain.outputs import FileLink

# What is no event stream and no run is small.
LARGEST_ANSWER = 8 * 1024 * 1024
HTTP_OK = 200

_PATHS = {Mode.WORKFLOW: "/workflows/run", Mode.COMPLETION: "/completion-messages"}
_STOPS = {Mode.WORKFLOW: "/workflows/tasks/{}/stop", Mode.COMPLETION: "/completion-messages/{}/stop"}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. A queued run sends nothing for up to 300 s before Dify itself gives the stream up (contract §6.2);
    a running one pings every 10 s."""

    connect: float = 10.0
    answer: float = 30.0
    first_event: float = 330.0
    silence: float = 90.0
    usage: float = 0.5
    run: float = 1800.0
    download: float = 120.0
    upload_rate: float = 50_000.0
    """bytes per second: slower than that is not waited for"""


class DifyClient:
    """The DifyApp port over aiohttp. Use as an async context manager or close it."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        mode: Mode = Mode.WORKFLOW,
        *,
        deadlines: Deadlines | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.mode = mode
        self._key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._deadlines = deadlines or Deadlines()
        self._wall = wall
        self._session: aiohttp.ClientSession | None = None
        self._links = SignedLinks(base_url, self._deadlines.connect, self._deadlines.download)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._links.close()
        if self._session is not None:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A fresh connection per call: Dify's server has ten by default and idle ones starve others; and a stale
            # one that breaks under a run would leave us not knowing whether the run was started.
            connector = Connector(self._deadlines.connect, limit=0, force_close=True, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._deadlines.connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=2**18,
            )
        return self._session

    # ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, request: RunRequest, on_send: OnSend | None = None) -> AsyncGenerator[RunEvent]:
        """See DifyApp.run."""
        start = asyncio.get_running_loop().time()
        last = start + self._deadlines.run
        response = await self._post_run(request, min(last, start + self._first_wait(request)), on_send)
        try:
            yield Opened(self._ahead(response.headers))
            if response.status == HTTP_OK and response.content_type == "text/event-stream":
                stream = _Stream(response, RunReader(self.mode, request.user), self._deadlines, last)
                while not stream.finished:
                    for event in await stream.more():
                        yield event
            else:
                for event in await self._one_answer(response, last):
                    yield event
        finally:
            response.close()

    def _first_wait(self, request: RunRequest) -> float:
        return self._deadlines.first_event if request.streaming else self._deadlines.run

    async def _post_run(self, request: RunRequest, deadline: float, on_send: OnSend | None) -> aiohttp.ClientResponse:
        sent = False

        async def sending() -> None:
            nonlocal sent
            if on_send is not None:
                await on_send()
            sent = True

        body = _run_json(self._run_body(request))
        token = ON_SEND.set(sending)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._http().post(
                    self.base_url + self._run_path(request),
                    data=body,
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                )
        except TimeoutError:
            kind = FailureKind.AMBIGUOUS if sent else FailureKind.NOT_SENT
            raise DifyFailureError(Failure(kind, "no_answer" if sent else "connection_refused", "")) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DifyFailureError(read_exception(error, sent=sent)) from None
        finally:
            ON_SEND.reset(token)

    def _run_path(self, request: RunRequest) -> str:
        if self.mode is Mode.WORKFLOW and request.workflow_id:
            return f"/workflows/{request.workflow_id}/run"
        return _PATHS.get(self.mode, "/chat-messages")

    def _run_body(self, request: RunRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "inputs": request.inputs,
            "response_mode": "streaming" if request.streaming or self.mode is Mode.AGENT_CHAT else "blocking",
            "user": request.user,
        }
        if self.mode is not Mode.WORKFLOW:
            # A title for every conversation would cost one more model call per row.
            body |= {"query": request.query or "", "auto_generate_name": False}
        if request.conversation_id:
            body["conversation_id"] = request.conversation_id
        if self.mode is Mode.CHATFLOW and request.workflow_id:
            body["workflow_id"] = request.workflow_id
        return body

    def _ahead(self, headers: Mapping[str, str]) -> float | None:
        date = read_http_date(headers.get("Date"))
        return date - self._wall() if date is not None else None

    async def _one_answer(self, response: aiohttp.ClientResponse, last: float) -> list[RunEvent]:
        """A blocking run's answer, or an error. JSON that is not understood may still stand for a run."""
        try:
            async with asyncio.timeout_at(last):
                body = await _read_all(response, LARGEST_EVENT)
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise DifyFailureError(Failure(FailureKind.AMBIGUOUS, "connection_cut", "", response.status)) from None
        if response.status == HTTP_OK and response.content_type == "application/json":
            return read_blocking(body, self.mode)
        failure = self._refusal(response, body)
        if failure.status == 400 and failure.message.startswith("Run failed:"):  # noqa: PLR2004
            # How a blocking chatflow reports a run that failed: it ran, and was paid for.
            return [Finished(Outcome(RunStatus.FAILED, error=failure.message.removeprefix("Run failed:").strip()))]
        raise DifyFailureError(failure)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Failure:
        """What an answer that is no success means; without the key, in case the server echoes our headers."""
        return read_error(response.status, response.headers, body.replace(self._key.encode(), "app-…".encode()))

    async def stop(self, task_id: str, user: str) -> None:
        """See DifyApp.stop. Chat apps obey only the user that started the run."""
        path = _STOPS.get(self.mode, "/chat-messages/{}/stop").format(task_id)
        await self._call("POST", path, body={"user": user})

    # ── looking runs up ─────────────────────────────────────────────────────────────────────────────────────────

    async def run_detail(self, run_id: str) -> RunDetail | None:
        """See DifyApp.run_detail. Old servers answer 200 with nulls for an unknown id."""
        try:
            body, _ = await self._call("GET", f"/workflows/run/{run_id}")
        except DifyFailureError as error:
            if error.failure.status == 404 and error.failure.code == "not_found":  # noqa: PLR2004
                return None
            raise
        detail, outcome = read_detail(body)
        if detail.get("id") is None:
            return None
        return RunDetail(run_id, str(detail.get("status")), outcome, read_inputs(detail.get("inputs")))

    async def runs_of(self, user: str | None, after: float, page: int = 1) -> list[LoggedRun]:
        """See DifyApp.runs_of."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(after))
        query = {"created_at__after": moment, "limit": "100"}
        if user is not None:
            query["created_by_end_user_session_id"] = user
        if page > 1:
            query["page"] = str(page)
        body, _ = await self._call("GET", "/workflows/logs", query=query)
        return [run for run in map(read_logged, _items(body)) if run is not None]

    async def conversations(self, user: str) -> list[Conversation]:
        """See DifyApp.conversations."""
        body, _ = await self._call("GET", "/conversations", query={"user": user, "limit": "100"})
        return [one for one in map(read_conversation, _items(body)) if one is not None]

    async def messages(self, conversation_id: str, user: str) -> list[Said]:
        """See DifyApp.messages."""
        query = {"user": user, "conversation_id": conversation_id, "limit": "100"}
        try:
            body, _ = await self._call("GET", "/messages", query=query)
        except DifyFailureError as error:
            if error.failure.status == 404 and error.failure.code == "not_found":  # noqa: PLR2004
                return []
            raise
        return [one for one in map(read_said, _items(body)) if one is not None]

    async def events(self, run_id: str, user: str) -> AsyncGenerator[RunEvent]:
        """The live events of a run that goes on (1.14 and later); for a finished one its end."""
        query = {"user": user, "include_state_snapshot": "true"}
        last = asyncio.get_running_loop().time() + self._deadlines.run
        async with AsyncExitStack() as stack:
            async with self._within_reason():
                answer = self._answer("GET", f"/workflow/{run_id}/events", query=query)
                response = await stack.enter_async_context(answer)
            stream = _Stream(response, RunReader(self.mode, user), self._deadlines, last)
            while not stream.finished:
                for event in await stream.more():
                    yield event

    # ── what the app is ─────────────────────────────────────────────────────────────────────────────────────────

    async def info(self) -> tuple[dict[str, Any], str | None]:
        """`/info`, and the server's version from its X-Version header."""
        body, headers = await self._call("GET", "/info")
        return _json(body), headers.get("X-Version")

    async def parameters(self) -> dict[str, Any]:
        """`/parameters`: the form and the limits of the published app."""
        body, _ = await self._call("GET", "/parameters")
        return _json(body)

    async def meta(self) -> dict[str, Any]:
        body, _ = await self._call("GET", "/meta")
        return _json(body)

    async def site(self) -> dict[str, Any]:
        body, _ = await self._call("GET", "/site")
        return _json(body)

    async def logs(self, **query: str) -> dict[str, Any]:
        """`/workflows/logs` as it is."""
        body, _ = await self._call("GET", "/workflows/logs", query=query)
        return _json(body)

    async def upload(self, name: str, content: bytes | Path, kind: str, user: str) -> Uploaded:
        """See DifyApp.upload."""
        if isinstance(content, bytes):
            return await self._upload(name, content, len(content), kind, user)
        with content.open("rb") as file:
            return await self._upload(name, file, os.fstat(file.fileno()).st_size, kind, user)

    async def _upload(self, name: str, content: bytes | BinaryIO, size: int, kind: str, user: str) -> Uploaded:
        seconds = self._deadlines.answer + size / self._deadlines.upload_rate
        form = upload_form(name, content, kind, user)
        body, _ = await self._call("POST", "/files/upload", form=form, seconds=seconds)
        answer = _json(body)
        if not answer.get("id"):
            raise DifyFailureError(Failure(FailureKind.REFUSED, "not_dify", "", HTTP_OK))
        told = answer.get("size")
        return Uploaded(str(answer["id"]), str(answer.get("name") or name), told if isinstance(told, int) else size)

    def addresses(self, link: FileLink) -> list[str]:
        """See DifyApp.addresses."""
        return self._links.addresses(link)

    def download(self, url: str, link: FileLink) -> AsyncGenerator[bytes]:
        """See DifyApp.download."""
        return self._links.blocks(url, link)

    # ── one exchange ────────────────────────────────────────────────────────────────────────────────────────────

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        form: aiohttp.FormData | None = None,
        seconds: float | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        async with (
            self._within_reason(seconds),
            self._answer(method, path, query=query, body=body, form=form) as response,
        ):
            return await _read_all(response, LARGEST_EVENT), response.headers

    @asynccontextmanager
    async def _within_reason(self, seconds: float | None = None) -> AsyncIterator[None]:
        """A deadline, and every failure as a DifyFailureError."""
        try:
            async with asyncio.timeout(self._deadlines.answer if seconds is None else seconds):
                yield
        except TimeoutError as error:
            sent = not isinstance(error, aiohttp.ConnectionTimeoutError)
            kind = FailureKind.AMBIGUOUS if sent else FailureKind.NOT_SENT
            raise DifyFailureError(Failure(kind, "no_answer", "")) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DifyFailureError(read_exception(error, sent=True)) from None

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        form: aiohttp.FormData | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._http().request(
            method,
            self.base_url + path,
            params=query,
            data=form if form is not None else (None if body is None else _to_json(body)),
            headers={"Content-Type": "application/json"} if body is not None else None,
            allow_redirects=False,
        )
        try:
            fine = response.status in (200, 201) and response.content_type in ("application/json", "text/event-stream")
            if not fine:
                raise DifyFailureError(self._refusal(response, await _read_all(response, LARGEST_ANSWER)))
            yield response
        finally:
            response.close()


class _Stream:
    """An event stream that is being read, with a deadline on every wait."""

    def __init__(self, response: aiohttp.ClientResponse, reader: RunReader, deadlines: Deadlines, last: float) -> None:
        self._content = response.content
        self._reader = reader
        self._decoder = EventDecoder()
        self._deadlines = deadlines
        self._last = last
        self.finished = False

    async def more(self) -> list[RunEvent]:
        """The next events, as they come; raises when the stream ends without the run's end."""
        chunk = await self._chunk()
        if not chunk:
            events = self._reader.end()
            if not events:
                raise DifyFailureError(_cut("stream_ended", self._reader))
        else:
            try:
                events = [event for data in self._decoder.feed(chunk) for event in self._reader.read(data)]
            except DifyFailureError as error:
                raise _placed(error, self._reader) from None
        end = next((i for i, event in enumerate(events) if isinstance(event, Finished)), None)
        if end is not None:
            self.finished = True
            del events[end + 1 :]
        return events

    async def _chunk(self) -> bytes:
        """b"" at the end of the stream, and when only a chatflow's usage is missing and does not come."""
        reader = self._reader
        wait = self._deadlines.silence if reader.attached else self._deadlines.first_event
        if reader.nearly_done:
            wait = self._deadlines.usage
        try:
            async with asyncio.timeout_at(min(self._last, asyncio.get_running_loop().time() + wait)):
                return await self._content.readany()
        except TimeoutError:
            code = "silence"
        except (aiohttp.ClientError, OSError):
            # aiohttp raises before it hands out what came ahead of the cut: a run id, or the whole outcome.
            left = self._content._read_nowait(-1)  # noqa: SLF001
            if left:
                return left
            code = "connection_cut"
        if reader.nearly_done:
            return b""
        raise DifyFailureError(_cut(code, reader))


def _run_json(body: dict[str, Any]) -> bytes:
    try:
        return _to_json(body)
    except (ValueError, TypeError, RecursionError):
        text = "the inputs cannot be written as JSON: are they nested too deeply?"
        raise DifyFailureError(Failure(FailureKind.REFUSED, "invalid_param", text, 400)) from None


async def _read_all(response: aiohttp.ClientResponse, largest: int) -> bytes:
    parts, size = [], 0
    async for chunk in response.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > largest:
            text = f"more than {largest // 1024 // 1024} MB"
            raise DifyFailureError(Failure(FailureKind.AMBIGUOUS, "reply_too_large", text, response.status))
    return b"".join(parts)


def _cut(code: str, reader: RunReader) -> Failure:
    if reader.attached is not None:
        return Failure(FailureKind.CUT, code)
    # Silence, then an end without any run: also how 1.13 and 1.14 refuse inputs while streaming.
    return Failure(FailureKind.AMBIGUOUS, "no_run_seen" if code in ("silence", "stream_ended") else code)


def _placed(error: DifyFailureError, reader: RunReader) -> DifyFailureError:
    """An event that is too large says nothing about the run: it is cut if its id is known, ambiguous if not."""
    if error.failure.code != "reply_too_large" or reader.attached is not None:
        return error
    return DifyFailureError(Failure(FailureKind.AMBIGUOUS, error.failure.code, error.failure.message))


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = read_json(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DifyFailureError(Failure(FailureKind.REFUSED, "not_dify", "", HTTP_OK))
    return value


def _items(body: bytes) -> list[Any]:
    items = _json(body).get("data")
    return items if isinstance(items, list) else []


def _to_json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        return json.dumps(value).encode()  # integers beyond 64 bits


def is_http_url(text: str) -> bool:
    """A base URL that a client can be made for: http or https, a host, no user name in it."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    extras = "@" in parts.netloc or "?" in text or "#" in text
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not extras
