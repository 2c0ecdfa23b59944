"""Runs over real sockets: what can be known of a run, whatever happens to the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from rowmill.dify.client import LARGEST_ANSWER, Deadlines, DifyClient, _Stream
from rowmill.dify.events import RunReader
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Finished, Opened, RunEvent, RunRequest
from tests.dify import wire as w
from tests.dify.recordings import FOLDER
from tests.dify.recordings import read as read_recording
from tests.dify.wire import (
    ASK,
    END,
    FINISHED,
    KEY,
    PATIENT,
    STARTED,
    STREAM,
    Talk,
    chunk,
    client_of,
    reply,
    run,
    run_at,
    serving,
    sse,
)

NOT_SENT, REFUSED, AMBIGUOUS, CUT = (
    FailureKind.NOT_SENT,
    FailureKind.REFUSED,
    FailureKind.AMBIGUOUS,
    FailureKind.CUT,
)
SHORT = replace(PATIENT, first_event=0.15, silence=0.15)
WHOLE = STREAM + chunk(sse(STARTED, FINISHED)) + END


def kinds(events: list[RunEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


ALL = ["Opened", "Attached", "Finished"]


def noting(calls: list[int]) -> Callable[[], Awaitable[None]]:
    async def note() -> None:
        calls.append(1)

    return note


# ── nothing sent ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_port() -> None:
    async with serving(b"") as gone:
        pass
    calls: list[int] = []
    async with client_of(gone) as client:
        events, failure = await run(client, on_send=noting(calls))
    assert failure == Failure(NOT_SENT, "connection_refused", f"Connect call failed ('127.0.0.1', {gone.port})")
    assert (events, calls) == ([], [])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://no-such-host.invalid/v1", "name_unknown"),
        ("http:///v1", "url_invalid"),
        ("http://127.0.0.1:99999/v1", "url_invalid"),
    ],
)
async def test_an_address_that_leads_nowhere(url: str, code: str) -> None:
    calls: list[int] = []
    async with client_of(url) as client:
        events, failure = await run(client, on_send=noting(calls))
    assert failure is not None
    assert (failure.kind, failure.code) == (NOT_SENT, code)
    assert (events, calls) == ([], [])


async def test_tls_to_a_plain_port() -> None:
    async def plain(talk: Talk) -> None:
        heard.append(await talk.reader.read(1000))
        await talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    heard: list[bytes] = []
    calls: list[int] = []
    async with serving(plain, reads=False) as wire, client_of(wire.url.replace("http:", "https:")) as client:
        events, failure = await run(client, on_send=noting(calls))
    assert failure is not None
    assert (failure.kind, failure.code) == (NOT_SENT, "tls_refused")
    assert (events, calls) == ([], [])
    assert heard[0].startswith(b"\x16\x03")
    assert KEY.encode() not in heard[0]


@pytest.mark.parametrize("deadlines", [replace(PATIENT, connect=0.1), replace(PATIENT, first_event=0.1, answer=0.1)])
async def test_a_connection_that_does_not_come_about_in_time(deadlines: Deadlines) -> None:
    """A TLS handshake without an answer: however long, nothing of the request was sent."""

    async def silent(talk: Talk) -> None:
        await talk.gone()

    async with (
        serving(silent, reads=False) as wire,
        client_of(wire.url.replace("http:", "https:"), deadlines=deadlines) as client,
    ):
        assert await run(client) == ([], Failure(NOT_SENT, "connection_refused"))
        assert (await w.failure_of(client.info())).code == "no_answer"


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", silent)
    async with client_of("http://dify.example/v1", deadlines=replace(PATIENT, connect=0.1)) as client:
        assert await run(client) == ([], Failure(NOT_SENT, "connection_refused"))


async def test_a_key_that_no_header_can_carry() -> None:
    async with serving(WHOLE) as wire, DifyClient(wire.url, "app-x\r\nX-Evil: 1", deadlines=PATIENT) as client:
        events, failure = await run(client)
        assert events == []
        assert failure is not None
        assert failure.kind in (NOT_SENT, AMBIGUOUS)
        assert wire.requests == []


# ── sent, and nothing known ─────────────────────────────────────────────────────────────────────────────────────


async def reset_at_once(talk: Talk) -> None:
    talk.reset()


async def close_at_once(talk: Talk) -> None:
    del talk


async def never_answer(talk: Talk) -> None:
    await talk.gone()


def sending(*pieces: bytes, then: str = "close") -> w.Script:
    async def script(talk: Talk) -> None:
        await talk.send(*pieces)
        if then == "reset":
            talk.reset()
        elif then == "wait":
            await talk.gone()

    return script


HEADERLESS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
PING = b"event: ping\n\n"


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        (reset_at_once, AMBIGUOUS, "reply_lost"),
        (close_at_once, AMBIGUOUS, "reply_lost"),
        (never_answer, AMBIGUOUS, "no_answer"),
        (sending(b"HTTP/1.1 200 OK\r\n", then="wait"), AMBIGUOUS, "no_answer"),
        (sending(b"nonsense\r\n\r\n"), AMBIGUOUS, "reply_lost"),
        (sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**18 + b"\r\n\r\n", then="wait"), AMBIGUOUS, "reply_lost"),
        (sending(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2**15, then="wait"), AMBIGUOUS, "reply_lost"),
        (sending(STREAM, then="wait"), AMBIGUOUS, "no_run_seen"),
        (sending(STREAM, chunk(PING), then="wait"), AMBIGUOUS, "no_run_seen"),
        (sending(STREAM, chunk(PING), END), AMBIGUOUS, "no_run_seen"),
        (sending(HEADERLESS, PING), AMBIGUOUS, "no_run_seen"),
        (sending(STREAM, chunk(PING)), AMBIGUOUS, "connection_cut"),
        (sending(STREAM, chunk(sse(STARTED)), then="wait"), CUT, "silence"),
        (sending(STREAM, chunk(sse(STARTED)), END), CUT, "stream_ended"),
        (sending(HEADERLESS, sse(STARTED)), CUT, "stream_ended"),
        (sending(STREAM, chunk(sse(STARTED))), CUT, "connection_cut"),
        (reply(200, {"x": 1})[:-3], AMBIGUOUS, "connection_cut"),
        (reply(200, {"x": 1}), AMBIGUOUS, "reply_unreadable"),
        (reply(200, b"{"), AMBIGUOUS, "reply_unreadable"),
        (reply(200, b"plain", "text/plain"), AMBIGUOUS, "reply_unreadable"),
        (reply(202, {"event": "workflow_maintenance_paused"}), AMBIGUOUS, "http_202"),
        (reply(204, b""), AMBIGUOUS, "reply_unreadable"),
        (reply(502, b"<html>502 Bad Gateway", "text/html"), AMBIGUOUS, "http_502"),
        (reply(504, b"<html>504", "text/html"), AMBIGUOUS, "http_504"),
        (reply(500, {"code": "unknown", "message": "m"}), FailureKind.ERRORED, "unknown"),
        (reply(200, b"<html>Log in</html>", "text/html"), REFUSED, "not_dify"),
        (reply(401, {"code": "unauthorized", "message": "m"}), REFUSED, "unauthorized"),
        (reply(429, b"<html>1015</html>", "text/html"), REFUSED, "edge_1015"),
    ],
)
async def test_what_is_known(script: w.Script | bytes, kind: FailureKind, code: str) -> None:
    patient = script in (reset_at_once, close_at_once) or isinstance(script, bytes)
    events, failure = await run_at(script, deadlines=PATIENT if patient else SHORT)
    assert failure is not None
    assert (failure.kind, failure.code) == (kind, code)
    assert ("Attached" in kinds(events)) == (kind is CUT)
    assert "Finished" not in kinds(events)


@pytest.mark.parametrize("end", [b"", b"xyz\r\n", b"5\r\n123456789"], ids=["reset", "nonsense", "a wrong chunk"])
async def test_a_stream_that_breaks_after_the_start(end: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(STREAM, chunk(sse(STARTED)))
        await seen.wait()
        await talk.send(end)
        if not end:
            talk.reset()

    seen = asyncio.Event()
    deadlines = replace(PATIENT, silence=10 if not end else 0.2)  # aiohttp goes silent at nonsense
    async with (
        serving(script) as wire,
        client_of(wire, deadlines=deadlines) as client,
        aclosing(client.run(ASK)) as events,
    ):
        assert isinstance(await anext(events), Opened)
        assert await anext(events) == Attached("run-1", "task-1", "wf-1")
        seen.set()
        failure = await w.failure_of(anext(events))
    assert failure.kind is CUT
    assert failure.code == "connection_cut" or end


RECORDED = read_recording(FOLDER / "1.14.2" / "02-run-echo-streaming.txt")
assert RECORDED is not None
TALE = RECORDED.answer
FIRST = TALE.index(b"\n\n", TALE.index(b"workflow_run_id")) + 2
LAST = TALE.index(b"\n\n", TALE.index(b'"workflow_finished"')) + 2
WIRED = STREAM + chunk(TALE) + END
AHEAD = len(STREAM) + len(b"%x\r\n" % len(TALE))


async def test_a_stream_cut_at_every_byte() -> None:
    """C5: the run id, once it was sent, is never forgotten; the outcome neither; and nothing is made up."""

    async def script(talk: Talk) -> None:
        await talk.send(WIRED[: lengths[0]])

    lengths = [0]
    async with serving(script) as wire, client_of(wire) as client:
        for length in range(len(WIRED) + 1):
            lengths[0] = length
            events, failure = await run(client)
            told = length - AHEAD
            if told >= LAST:
                assert (kinds(events), failure) == (ALL, None)
            elif told >= FIRST:
                assert (kinds(events), failure) == (ALL[:2], Failure(CUT, "connection_cut"))
            else:
                assert failure is not None
                assert failure.kind is AMBIGUOUS
                assert failure.code == ("reply_lost" if length < len(STREAM) else "connection_cut")
                assert "Attached" not in kinds(events)
    assert wire.connections == len(WIRED) + 1


async def test_what_came_ahead_of_a_cut_is_read() -> None:
    """The engine commits a run id before it reads on: meanwhile the outcome can come, and the connection break."""
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream = _Stream(SimpleNamespace(content=content), RunReader(Mode.WORKFLOW, "u1"), PATIENT, loop.time() + 10)  # type: ignore[arg-type]
    content.feed_data(sse(STARTED))
    assert kinds(await stream.more()) == ["Attached"]
    content.feed_data(sse({"event": "node_started"}))
    content.set_exception(aiohttp.ClientPayloadError("cut"))
    assert await stream.more() == []
    assert await w.failure_of(stream.more()) == Failure(CUT, "connection_cut")
    content.feed_data(sse(FINISHED))
    assert kinds(await stream.more()) == ["Finished"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_a_stream_in_pieces(size: int) -> None:
    pieces = [chunk(TALE[i : i + size]) for i in range(0, len(TALE), size)]
    assert await run_at(sending(STREAM, *pieces, END)) == await run_at(WIRED)


async def test_a_drip_of_comments_ends_with_the_run_deadline() -> None:
    """C8: every byte is progress to a read timeout, so the wall clock must end it."""

    def dripping(*before: bytes) -> w.Script:
        async def script(talk: Talk) -> None:
            await talk.send(STREAM, *before)
            while not talk.reader.at_eof():
                await talk.send(chunk(b":\n"))
                await asyncio.sleep(0.01)

        return script

    short = replace(PATIENT, first_event=0.1, silence=0.1, run=0.2)
    _, failure = await run_at(dripping(), deadlines=short)
    assert failure == Failure(AMBIGUOUS, "no_run_seen")
    _, failure = await run_at(dripping(chunk(sse(STARTED))), deadlines=short)
    assert failure == Failure(CUT, "silence")


async def test_a_flood_ends_with_the_run_deadline() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(STREAM, chunk(sse(STARTED)))
        flood = chunk(b": x\n" * 2**14)
        while not talk.reader.at_eof():
            await talk.send(flood)

    _, failure = await run_at(script, deadlines=replace(PATIENT, run=0.2))
    assert failure == Failure(CUT, "silence")


# ── too much ────────────────────────────────────────────────────────────────────────────────────────────────────


def endless(head: bytes, unit: bytes) -> w.Script:
    async def script(talk: Talk) -> None:
        await talk.send(head)
        while not talk.reader.at_eof():
            await talk.send(unit)

    return script


BIG = b"x" * 2**20


@pytest.mark.parametrize(
    ("script", "kind", "attached"),
    [
        (endless(STREAM, chunk(BIG)), AMBIGUOUS, False),
        (endless(STREAM + chunk(sse(STARTED) + b"data: "), chunk(BIG)), CUT, True),
        (endless(STREAM + chunk(sse(STARTED)), chunk(b"data: " + BIG + b"\n")), CUT, True),
        (endless(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", BIG), AMBIGUOUS, False),
        (endless(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", BIG), AMBIGUOUS, False),
    ],
    ids=["no event", "an event", "many lines", "an answer", "a page"],
)
async def test_an_endless_body(script: w.Script, kind: FailureKind, attached: bool) -> None:
    events, failure = await run_at(script)
    assert failure is not None
    assert (failure.kind, failure.code) == (kind, "reply_too_large")
    assert ("Attached" in kinds(events)) is attached


async def test_a_body_that_swells() -> None:
    bomb = gzip.compress(b" " * (64 * 2**20), 1)
    events, failure = await run_at(reply(200, bomb, Content_Encoding="gzip"))
    assert kinds(events) == ["Opened"]
    assert failure is not None
    assert (failure.kind, failure.code) == (AMBIGUOUS, "reply_too_large")


async def test_an_answer_to_another_question_is_bounded_too() -> None:
    async with serving(reply(500, b"x" * (LARGEST_ANSWER + 1), "text/html")) as wire, client_of(wire) as client:
        failure = await w.failure_of(client.info())
    assert (failure.kind, failure.code, failure.status) == (AMBIGUOUS, "reply_too_large", 500)


# ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────


def held_open(*events: Any) -> w.Script:
    """Sends and then waits for the client to close: a client that waits for the end of the stream never returns."""

    async def script(talk: Talk) -> None:
        await talk.send(STREAM, chunk(sse(*events)))
        await talk.gone()
        closed.set()

    closed = asyncio.Event()
    script.closed = closed  # type: ignore[attr-defined]
    return script


PAUSED = STARTED | {"event": "workflow_paused", "data": {"status": "paused"}}
CHAT = {"message_id": "m-1", "conversation_id": "c-1", "task_id": "task-1"}
SAID = {"event": "message", **CHAT, "answer": "A"}
MESSAGE_END = {"event": "message_end", **CHAT, "metadata": {"usage": {"total_price": "0.1", "currency": "USD"}}}


@pytest.mark.parametrize(
    ("events", "mode", "status"),
    [
        ([STARTED, FINISHED], Mode.WORKFLOW, RunStatus.SUCCEEDED),
        ([STARTED, {"event": "error", "message": "m"}], Mode.WORKFLOW, RunStatus.FAILED),
        ([STARTED, PAUSED], Mode.WORKFLOW, RunStatus.PAUSED),
        ([STARTED, FINISHED, FINISHED, {"event": "error"}], Mode.WORKFLOW, RunStatus.SUCCEEDED),
        ([STARTED, MESSAGE_END, FINISHED], Mode.CHATFLOW, RunStatus.SUCCEEDED),
        ([STARTED, FINISHED, MESSAGE_END], Mode.CHATFLOW, RunStatus.SUCCEEDED),
        ([STARTED, FINISHED], Mode.CHATFLOW, RunStatus.SUCCEEDED),
        ([SAID, MESSAGE_END], Mode.CHAT, RunStatus.SUCCEEDED),
        ([SAID, MESSAGE_END], Mode.AGENT_CHAT, RunStatus.SUCCEEDED),
        ([SAID, MESSAGE_END], Mode.COMPLETION, RunStatus.SUCCEEDED),
    ],
)  # fmt: skip
async def test_the_end_is_the_end(events: list[Any], mode: Mode, status: RunStatus) -> None:
    script = held_open(*events)
    async with serving(script) as wire, client_of(wire, mode) as client:
        told, failure = await run(client)
        assert (kinds(told), failure) == (ALL, None)
        assert isinstance(told[-1], Finished)
        assert told[-1].outcome.status is status
        await asyncio.wait_for(script.closed.wait(), 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("then", ["close", "wait", "reset"])
async def test_a_chatflow_whose_usage_does_not_come(then: str) -> None:
    events, failure = await run_at(sending(STREAM, chunk(sse(STARTED, SAID, FINISHED)), then=then), mode=Mode.CHATFLOW)
    if then == "reset":
        return  # a reset may take everything with it, on the way
    assert (kinds(events), failure) == (ALL, None)
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome.outputs == '{"answer": "A"}'


async def test_an_error_before_any_run() -> None:
    error = {"event": "error", "status": 500, "message": "q is required in input form"}
    events, failure = await run_at(held_open(error))
    assert kinds(events) == ["Opened"]
    assert failure == Failure(REFUSED, "invalid_param", "q is required in input form", 400)


async def test_leaving_early_closes_the_connection() -> None:
    script = held_open(STARTED)
    async with serving(script) as wire, client_of(wire) as client:
        async with aclosing(client.run(ASK)) as events:
            async for event in events:
                if isinstance(event, Attached):
                    break
        await asyncio.wait_for(script.closed.wait(), 5)  # type: ignore[attr-defined]


async def test_being_cancelled_closes_the_connection() -> None:
    async def script(talk: Talk) -> None:
        arrived.set()
        await talk.gone()
        closed.set()

    arrived, closed = asyncio.Event(), asyncio.Event()
    async with serving(script) as wire, client_of(wire) as client:
        task = asyncio.create_task(run(client))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 5)


BLOCKING = {"workflow_run_id": "run-1", "task_id": "task-1", "data": FINISHED["data"]}


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_in_one_piece(streaming: bool) -> None:
    async with serving(reply(200, BLOCKING, "Application/JSON; charset=utf-8")) as wire, client_of(wire) as client:
        events, failure = await run(client, replace(ASK, streaming=streaming))
    assert (kinds(events), failure) == (ALL, None)
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome.run_id == "run-1"


async def test_a_blocking_run_has_the_whole_deadline() -> None:
    deadlines = replace(PATIENT, first_event=0.05, silence=0.05, run=0.3)
    started = asyncio.get_running_loop().time()
    async with serving(never_answer) as wire, client_of(wire, deadlines=deadlines) as client:
        _, failure = await run(client, replace(ASK, streaming=False))
    assert failure == Failure(AMBIGUOUS, "no_answer")
    assert asyncio.get_running_loop().time() - started >= 0.29


async def test_a_blocking_answer_that_stops_halfway() -> None:
    script = sending(reply(200, BLOCKING)[:-5], then="wait")
    _, failure = await run_at(script, deadlines=replace(PATIENT, run=0.2))
    assert failure == Failure(AMBIGUOUS, "connection_cut", "", 200)


async def test_a_blocking_chatflow_that_failed_was_a_run() -> None:
    body = {"code": "invalid_param", "message": "Run failed: no credentials", "status": 400}
    events, failure = await run_at(reply(400, body), mode=Mode.CHATFLOW)
    assert failure is None
    assert events[-1] == Finished(Outcome(RunStatus.FAILED, error="no credentials"))


@pytest.mark.parametrize(
    ("headers", "ahead"),
    [
        ({"Date": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60.0),
        ({"Date": "Thu, 01 Jan 1970 00:00:10 GMT"}, -30.0),
        ({"Date": "yesterday"}, None),
        ({}, None),
    ],
)
async def test_the_clock_of_the_server(headers: dict[str, str], ahead: float | None) -> None:
    events, _ = await run_at(reply(200, BLOCKING, **headers), wall=lambda: 40.0)
    assert events[0] == Opened(ahead)


# ── what is sent, and to whom ───────────────────────────────────────────────────────────────────────────────────


async def test_on_send_comes_once_and_before_the_first_byte() -> None:
    order: list[str] = []

    async def script(talk: Talk) -> None:
        order.append("heard")
        await talk.send(WHOLE)

    async with serving(script) as wire, client_of(wire) as client:

        async def tell() -> None:
            order.append(f"told with {len(wire.requests)} requests")

        events, _ = await run(client, on_send=tell)
    assert kinds(events) == ALL
    assert order == ["told with 0 requests", "heard"]


async def test_a_connection_for_every_call() -> None:
    async with serving(WHOLE) as wire, client_of(wire) as client:
        for _ in range(3):
            await run(client)
        assert wire.connections == 3
    async with serving(reply(200, {"name": "x"})) as wire, client_of(wire) as client:
        for _ in range(3):
            await client.info()
        assert wire.connections == 3


async def test_a_redirect_gets_nothing() -> None:
    async with serving(reply(200, BLOCKING)) as other:
        answer = reply(307, b"", Location=f"{other.url}/workflows/run?{KEY}")
        async with serving(answer) as wire, client_of(wire) as client:
            events, failure = await run(client)
            assert kinds(events) == ["Opened"]
            assert failure == Failure(REFUSED, "redirected", f"http://127.0.0.1:{other.port}", 307)
            assert (await w.failure_of(client.info())).code == "redirected"
        assert (other.connections, other.requests) == (0, [])


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_proxies_of_the_environment_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply(502, b"")) as proxy, serving(WHOLE) as wire:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        async with client_of(wire) as client:
            events, _ = await run(client)
        assert kinds(events) == ALL
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("mode", "request_", "path", "extra"),
    [
        (Mode.WORKFLOW, ASK, "/v1/workflows/run", {"response_mode": "streaming"}),
        (Mode.WORKFLOW, replace(ASK, streaming=False), "/v1/workflows/run", {"response_mode": "blocking"}),
        (Mode.WORKFLOW, replace(ASK, workflow_id="w-1"), "/v1/workflows/w-1/run", {"response_mode": "streaming"}),
        (Mode.COMPLETION, ASK, "/v1/completion-messages",
         {"response_mode": "streaming", "query": "", "auto_generate_name": False}),
        (Mode.CHAT, replace(ASK, query="q", conversation_id="c", workflow_id="w"), "/v1/chat-messages",
         {"response_mode": "streaming", "query": "q", "auto_generate_name": False, "conversation_id": "c"}),
        (Mode.CHATFLOW, replace(ASK, query="q", workflow_id="w", streaming=False), "/v1/chat-messages",
         {"response_mode": "blocking", "query": "q", "auto_generate_name": False, "workflow_id": "w"}),
        (Mode.AGENT_CHAT, replace(ASK, query="q", streaming=False), "/v1/chat-messages",
         {"response_mode": "streaming", "query": "q", "auto_generate_name": False}),
    ],
)  # fmt: skip
async def test_what_is_sent(mode: Mode, request_: RunRequest, path: str, extra: dict[str, Any]) -> None:
    async with serving(WHOLE) as wire, client_of(wire.url + "/", mode) as client:
        await run(client, request_)
    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert f"Authorization: Bearer {KEY}".encode() in head
    assert b"Content-Type: application/json" in head
    assert json.loads(body) == {"inputs": {"query": "hi"}, "user": "u1"} | extra


async def test_inputs_that_orjson_does_not_take() -> None:
    inputs = {"big": 2**70, "half": "\ud800", "text": "é\u2028"}
    async with serving(WHOLE) as wire, client_of(wire) as client:
        await run(client, RunRequest(inputs, "u1"))
    assert json.loads(wire.requests[0].partition(b"\r\n\r\n")[2])["inputs"] == inputs


async def test_a_client_that_was_never_used_closes() -> None:
    client = client_of("http://127.0.0.1:1/v1")
    await client.close()
    assert KEY not in repr(client)


async def test_a_key_that_is_echoed_stays_secret() -> None:
    echo = reply(400, {"code": "invalid_param", "message": f"bad header Bearer {KEY}"})
    async with serving(echo) as wire, client_of(wire) as client:
        _, failure = await run(client)
    assert failure is not None
    assert KEY not in str(failure)
    assert failure.message == "bad header Bearer app-…"


async def test_a_connection_that_is_not_wanted_any_more_is_closed() -> None:
    """What `on_send` raises comes out, nothing was sent, and no open connection is left at Dify."""
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.close()
        left.set()

    async def refuse() -> None:
        raise LookupError("no place")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with DifyClient(url, KEY, Mode.WORKFLOW) as client:
        with pytest.raises(LookupError):
            async for _ in client.run(ASK, refuse):
                pass
        await asyncio.wait_for(left.wait(), 5)
    server.close()
