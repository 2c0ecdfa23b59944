"""The calls that start no run, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rowmill.dify.client import DifyClient, is_http_url
from rowmill.dify.talk import read_conversation, read_said
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Conversation, Finished, LoggedRun, RunDetail, Uploaded
from tests.dify.recordings import FOLDER
from tests.dify.recordings import read as read_recording
from tests.dify.wire import (
    END,
    FINISHED,
    PATIENT,
    STARTED,
    STREAM,
    Script,
    Talk,
    chunk,
    client_of,
    failure_of,
    reply,
    serving,
    sse,
)

AMBIGUOUS, REFUSED, NOT_SENT, CUT = (
    FailureKind.AMBIGUOUS,
    FailureKind.REFUSED,
    FailureKind.NOT_SENT,
    FailureKind.CUT,
)
Call = Callable[[DifyClient], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "info": lambda c: c.info(),
    "parameters": lambda c: c.parameters(),
    "meta": lambda c: c.meta(),
    "site": lambda c: c.site(),
    "logs": lambda c: c.logs(),
    "runs_of": lambda c: c.runs_of("u1", 0),
    "run_detail": lambda c: c.run_detail("run-1"),
    "conversations": lambda c: c.conversations("u1"),
    "messages": lambda c: c.messages("c-1", "u1"),
    "upload": lambda c: c.upload("a.txt", b"x", "text/plain", "u1"),
    "stop": lambda c: c.stop("task-1", "u1"),
}


async def never_answer(talk: Talk) -> None:
    await talk.gone()


async def reset(talk: Talk) -> None:
    talk.reset()


every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        (never_answer, AMBIGUOUS, "no_answer"),
        (reset, AMBIGUOUS, "reply_lost"),
        (reply(200, {"a": 1})[:-1], AMBIGUOUS, "reply_lost"),
        (reply(500, {"code": "unknown"}), FailureKind.ERRORED, "unknown"),
        (reply(401, {"code": "unauthorized"}), REFUSED, "unauthorized"),
        (reply(502, b"<html>", "text/html"), AMBIGUOUS, "http_502"),
        (reply(200, b"<html>", "text/html"), REFUSED, "not_dify"),
        (reply(404, b"<html>", "text/html"), REFUSED, "not_dify"),
        (reply(302, b"", Location="/x"), REFUSED, "redirected"),
    ],
)
async def test_every_call_fails_in_its_own_words(
    call: Call, script: Script | bytes, kind: FailureKind, code: str
) -> None:
    deadlines = replace(PATIENT, answer=0.1) if script is never_answer else PATIENT
    async with serving(script) as wire, client_of(wire, deadlines=deadlines) as client:
        failure = await failure_of(call(client))
    assert (failure.kind, failure.code) == (kind, code)


@every_call
async def test_nobody_there(call: Call) -> None:
    async with serving(b"") as gone:
        pass
    async with client_of(gone) as client:
        failure = await failure_of(call(client))
    assert (failure.kind, failure.code) == (NOT_SENT, "connection_refused")


@pytest.mark.parametrize("name", ["info", "parameters", "meta", "site", "logs", "runs_of", "upload"])
@pytest.mark.parametrize("body", [b"[]", b"{", b"", b"null", b'"x"'])
async def test_json_that_is_no_object(name: str, body: bytes) -> None:
    async with serving(reply(200, body)) as wire, client_of(wire) as client:
        assert await failure_of(CALLS[name](client)) == Failure(REFUSED, "not_dify", "", 200)


@pytest.mark.parametrize("name", ["info", "parameters", "meta", "site", "logs"])
async def test_what_is_read(name: str) -> None:
    async with serving(reply(200, {"a": [1.5]}, X_Version="1.14.2")) as wire, client_of(wire) as client:
        answer = await CALLS[name](client)
    assert answer == (({"a": [1.5]}, "1.14.2") if name == "info" else {"a": [1.5]})
    path = {"logs": "/workflows/logs"}.get(name, f"/{name}")
    assert wire.requests[0].startswith(f"GET /v1{path} HTTP/1.1".encode())


async def test_no_version() -> None:
    async with serving(reply(200, {})) as wire, client_of(wire) as client:
        assert await client.info() == ({}, None)


async def test_logs_with_a_query() -> None:
    async with serving(reply(200, {})) as wire, client_of(wire) as client:
        await client.logs(limit="1", keyword="ä b")
    target = wire.requests[0].split(b" ")[1].decode()
    assert parse_qs(urlsplit(target).query) == {"limit": ["1"], "keyword": ["ä b"]}


# ── stop ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        (Mode.WORKFLOW, "/v1/workflows/tasks/task-1/stop"),
        (Mode.COMPLETION, "/v1/completion-messages/task-1/stop"),
        (Mode.CHATFLOW, "/v1/chat-messages/task-1/stop"),
        (Mode.CHAT, "/v1/chat-messages/task-1/stop"),
        (Mode.AGENT_CHAT, "/v1/chat-messages/task-1/stop"),
    ],
)
async def test_stop(mode: Mode, path: str) -> None:
    async with serving(reply(200, {"result": "success"})) as wire, client_of(wire, mode) as client:
        await client.stop("task-1", "u1")
    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1".encode())
    assert b"application/json" in head
    assert json.loads(body) == {"user": "u1"}


# ── looking runs up ─────────────────────────────────────────────────────────────────────────────────────────────

ENDED = FINISHED["data"] | {"inputs": '{"q": "hi", "sys.user_id": "u1"}'}
NOTHING = dict.fromkeys(["id", "workflow_id", "status", "inputs", "outputs", "error", "created_at"])


async def test_a_run_that_ended() -> None:
    async with serving(reply(200, ENDED)) as wire, client_of(wire) as client:
        detail = await client.run_detail("run-1")
    assert wire.requests[0].startswith(b"GET /v1/workflows/run/run-1 HTTP/1.1")
    assert detail is not None
    assert (detail.run_id, detail.status) == ("run-1", "succeeded")
    assert detail.inputs == {"q": "hi", "sys.user_id": "u1"}
    assert detail.outcome is not None
    assert (detail.outcome.status, detail.outcome.outputs) == (RunStatus.SUCCEEDED, '{"answer": "A"}')


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ('{"q": 1}', {"q": 1}),
        ({"q": 1}, {"q": 1}),
        ("{", {}),
        ("[1]", {}),
        (None, {}),
        (7, {}),
    ],
)
async def test_inputs_of_a_run(inputs: Any, expected: dict[str, Any]) -> None:
    async with (
        serving(reply(200, {"id": "r", "status": "running", "inputs": inputs})) as wire,
        client_of(wire) as client,
    ):
        assert await client.run_detail("r") == RunDetail("r", "running", None, expected)


@pytest.mark.parametrize(
    "answer",
    [
        reply(404, {"code": "not_found", "message": "Workflow run not found. Did you mean …", "status": 404}),
        reply(200, NOTHING),
        reply(200, {}),
    ],
)
async def test_a_run_that_is_not_known(answer: bytes) -> None:
    async with serving(answer) as wire, client_of(wire) as client:
        assert await client.run_detail("run-1") is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply(404, {"code": "other"}), REFUSED),
        (reply(400, {"code": "not_found"}), REFUSED),
        (reply(200, b'{"id": "r'), AMBIGUOUS),
    ],
)
async def test_a_detail_that_says_nothing(answer: bytes, kind: FailureKind) -> None:
    async with serving(answer) as wire, client_of(wire) as client:
        assert (await failure_of(client.run_detail("run-1"))).kind is kind


def line(**run: Any) -> dict[str, Any]:
    return {"workflow_run": {"id": "r", "status": "running", "created_at": 5} | run, "created_at": 7}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([line() | {"created_by_end_user": {"session_id": "u1"}}], [LoggedRun("r", "running", 5.0, "u1")]),
        ([line(), line(id="s")], [LoggedRun("r", "running", 5.0, None), LoggedRun("s", "running", 5.0, None)]),
        ([line(created_at=None) | {"created_by_end_user": None}], [LoggedRun("r", "running", 7.0, None)]),
        ([line(created_at=None) | {"created_at": None}], [LoggedRun("r", "running", 0.0, None)]),
        ([line(created_at="Wed, 21 Oct 2015 07:28:00 -0000")], [LoggedRun("r", "running", 1445412480.0, None)]),
        ([line(created_at="once") | {"created_by_end_user": "u1"}], [LoggedRun("r", "running", 0.0, None)]),
        ([line(id=None), line(id=""), {"workflow_run": None}, {}, None, "x"], []),
        ([], []),
        (None, []),
    ],
)  # fmt: skip
async def test_runs_of(data: Any, expected: list[LoggedRun]) -> None:
    async with serving(reply(200, {"data": data})) as wire, client_of(wire) as client:
        assert await client.runs_of("u 1+é", 1445412480.9) == expected
    target = urlsplit(wire.requests[0].split(b" ")[1].decode())
    assert target.path == "/v1/workflows/logs"
    assert parse_qs(target.query) == {
        "created_by_end_user_session_id": ["u 1+é"],
        "created_at__after": ["2015-10-21T07:28:00+00:00"],
        "limit": ["100"],
    }


async def test_runs_of_anybody() -> None:
    async with serving(reply(200, {"data": []})) as wire, client_of(wire) as client:
        assert await client.runs_of(None, 1445412480.9, 3) == []
    query = urlsplit(wire.requests[0].split(b" ")[1].decode()).query
    assert parse_qs(query) == {"created_at__after": ["2015-10-21T07:28:00+00:00"], "limit": ["100"], "page": ["3"]}


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_events_of_a_run_that_goes_on() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(STREAM, chunk(sse(STARTED)), chunk(sse(FINISHED)))
        await talk.gone()

    async with serving(script) as wire, client_of(wire) as client:
        events = [event async for event in client.events("run-1", "u1")]
    assert [type(event) for event in events] == [Attached, Finished]
    target = urlsplit(wire.requests[0].split(b" ")[1].decode())
    assert target.path == "/v1/workflow/run-1/events"
    assert parse_qs(target.query) == {"user": ["u1"], "include_state_snapshot": ["true"]}


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        (reply(404, {"code": "not_found"}), REFUSED, "not_found"),
        (STREAM + END, AMBIGUOUS, "no_run_seen"),
        (STREAM + chunk(sse(STARTED)) + END, CUT, "stream_ended"),
        (never_answer, AMBIGUOUS, "no_answer"),
        (reset, AMBIGUOUS, "reply_lost"),
    ],
)
async def test_events_that_do_not_come(script: Script | bytes, kind: FailureKind, code: str) -> None:
    async def all_events(client: DifyClient) -> list[Any]:
        return [event async for event in client.events("run-1", "u1")]

    deadlines = replace(PATIENT, answer=0.1) if script is never_answer else PATIENT
    async with serving(script) as wire, client_of(wire, deadlines=deadlines) as client:
        failure = await failure_of(all_events(client))
    assert (failure.kind, failure.code) == (kind, code)


# ── uploads ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("a.txt", 'filename="a.txt"'),
        ("my file (1).pdf", 'filename="my file (1).pdf"'),
        ("报告 é.pdf", 'filename="报告 é.pdf"'),
        ('a"b\\c.txt', 'filename="a\\"b\\\\c.txt"'),
        ('a\r\nX-Evil: "1.txt', 'filename="a__X-Evil: \\"1.txt"'),
        ("half\udcff.txt", 'filename="half_.txt"'),
    ],
)
async def test_upload(name: str, sent: str) -> None:
    async with serving(reply(201, {"id": "f-1", "name": "n", "size": 3})) as wire, client_of(wire) as client:
        assert await client.upload(name, b"\x00\xff\r\n", "image/png", "u1") == Uploaded("f-1", "n", 3)
    request = wire.requests[0]
    assert request.startswith(b"POST /v1/files/upload HTTP/1.1")
    assert b"multipart/form-data; boundary=" in request
    assert sent.encode() in request
    assert b"\r\nX-Evil" not in request
    assert b"Content-Type: image/png\r\n" in request
    assert b"\r\n\r\n\x00\xff\r\n\r\n--" in request
    assert b'name="user"\r\n\r\nu1\r\n' in request


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"id": "f-1"}, Uploaded("f-1", "a.txt", 2)),
        ({"id": "f-1", "name": None, "size": None}, Uploaded("f-1", "a.txt", 2)),
        ({"id": "f-1", "name": "", "size": "big"}, Uploaded("f-1", "a.txt", 2)),
        ({"id": "f-1", "name": "b", "size": 0}, Uploaded("f-1", "b", 0)),
    ],
)
async def test_upload_answers(answer: dict[str, Any], expected: Uploaded) -> None:
    async with serving(reply(201, answer)) as wire, client_of(wire) as client:
        assert await client.upload("a.txt", b"xy", "text/plain", "u1") == expected


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": ""}])
async def test_an_upload_without_an_id(answer: dict[str, Any]) -> None:
    async with serving(reply(201, answer)) as wire, client_of(wire) as client:
        assert (await failure_of(client.upload("a", b"", "text/plain", "u1"))).code == "not_dify"


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("https://api.dify.ai/v1", True),
        ("http://localhost", True),
        ("http://10.0.0.1:8080/a/v1/", True),
        ("http://[::1]:5001/v1", True),
        ("HTTP://x/v1", True),
        ("", False),
        ("api.dify.ai/v1", False),
        ("ftp://x/v1", False),
        ("http://", False),
        ("http:///v1", False),
        ("http://x:port/v1", False),
        ("http://x:99999/v1", False),
        ("http://[::1/v1", False),
        ("http://me:pw@x/v1", False),
        ("http://:pw@x/v1", False),
        ("http://@x/v1", False),
        ("http://x/v1?a=b", False),
        ("http://x/v1?", False),
        ("http://x/v1#there", False),
        ("http://x/v1#", False),
    ],
)
def test_is_http_url(text: str, fine: bool) -> None:
    assert is_http_url(text) is fine


# ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────


def recorded(name: str) -> bytes:
    found = read_recording(FOLDER / "1.14.2" / f"{name}.txt")
    assert found is not None
    return found.answer


async def test_recorded_conversations() -> None:
    async with serving(reply(200, recorded("15-chat-conversations"))) as wire, client_of(wire, Mode.CHATFLOW) as client:
        found = await client.conversations("u1")
    assert found == [
        Conversation("1f5173cd-759c-4886-a01c-c2f1d6d86874", 1795471118.0),
        Conversation("8e955190-d547-4dee-a7f5-f3bbaaaf3006", 1795471117.0),
    ]
    assert parse_qs(urlsplit(wire.requests[0].split()[1].decode()).query) == {"user": ["u1"], "limit": ["100"]}


async def test_recorded_messages() -> None:
    place = "1f5173cd-759c-4886-a01c-c2f1d6d86874"
    async with serving(reply(200, recorded("15-chat-messages-list"))) as wire, client_of(wire, Mode.CHATFLOW) as client:
        first, second = await client.messages(place, "u1")
    assert (first.message_id, first.query, first.inputs) == (
        "edb0c184-7bcf-40a5-a436-9f3f2c02debf",
        "hi there",
        {"name": "bob"},
    )
    assert second.outcome == Outcome(
        RunStatus.SUCCEEDED,
        '{"answer": "echo: second name=carol"}',
        message_id="552c24ea-d187-4546-b193-dd755c7d0874",
        conversation_id=place,
    )
    assert {"conversation_id=" + place, "user=u1"} <= set(wire.requests[0].split()[1].decode().split("?")[1].split("&"))


MESSAGE = {"id": "m", "conversation_id": "c", "query": "q", "answer": "a", "status": "normal", "created_at": 5}


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        (MESSAGE, RunStatus.SUCCEEDED, None),
        (MESSAGE | {"answer": ""}, None, None),
        (MESSAGE | {"answer": None}, None, None),
        (MESSAGE | {"status": "paused"}, None, None),
        (MESSAGE | {"status": "levitating"}, None, None),
        (MESSAGE | {"status": "error", "error": "boom"}, RunStatus.FAILED, "boom"),
        (MESSAGE | {"error": "boom"}, RunStatus.FAILED, "boom"),
        (MESSAGE | {"status": "error", "answer": "half"}, RunStatus.FAILED, None),
    ],
)
def test_what_is_saved_of_an_answer(line: dict[str, Any], status: RunStatus | None, error: str | None) -> None:
    said = read_said(line)
    assert said is not None
    assert (said.outcome and said.outcome.status, said.outcome and said.outcome.error) == (status, error)
    assert (said.message_id, said.conversation_id, said.query, said.created_at) == ("m", "c", "q", 5.0)


@pytest.mark.parametrize("line", [None, 7, [], {}, {"id": ""}])
async def test_lines_that_are_none(line: Any) -> None:
    assert read_said(line) is read_conversation(line) is None
    async with serving(reply(200, {"data": line})) as wire, client_of(wire, Mode.CHAT) as client:
        assert await client.conversations("u") == await client.messages("c", "u") == []


async def test_a_conversation_that_this_user_does_not_have() -> None:
    gone = {"code": "not_found", "message": "Conversation Not Exists.", "status": 404}
    async with serving(reply(404, gone)) as wire, client_of(wire, Mode.CHAT) as client:
        assert await client.messages("c", "u") == []
