"""What a run's events and answers mean, whatever their order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowmill.dify.events import RunReader, read_blocking, read_detail
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Finished, RunEvent
from tests.dify.wire import FINISHED, STARTED

RUN = {"workflow_run_id": "run-1", "task_id": "task-1"}
CHAT = RUN | {"message_id": "m-1", "conversation_id": "c-1"}
USAGE = {"total_tokens": 45, "total_price": "0.000057", "currency": "USD", "latency": 1.2}


def event(name: str, ids: dict[str, Any] | None = None, /, data: Any = None, **more: Any) -> dict[str, Any]:
    return {"event": name, **(RUN if ids is None else ids), **({} if data is None else {"data": data}), **more}


def read(events: list[Any], mode: Mode = Mode.WORKFLOW, *, ends: bool = False) -> list[RunEvent]:
    """What these events mean; `ends`: the stream is over after them."""
    reader = RunReader(mode, "u1")
    told = [x for e in events for x in reader.read(e if isinstance(e, bytes) else json.dumps(e).encode())]
    return told + (reader.end() if ends else [])


def only_outcome(told: list[RunEvent]) -> Outcome:
    (outcome,) = [x.outcome for x in told if isinstance(x, Finished)]
    assert isinstance(told[-1], Finished)
    return outcome


# ── ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "first",
    [
        STARTED,
        event("node_started", data={"node_id": "n"}),
        event("node_finished", data={}),
        event("text_chunk", data={"text": "x"}),
        event("hologram_made"),
        {"workflow_run_id": "run-1", "task_id": "task-1"},
        FINISHED,
    ],
    ids=lambda e: e.get("event", "nameless"),
)
def test_the_run_id_is_taken_from_any_event(first: dict[str, Any]) -> None:
    attached = read([first])[0]
    assert isinstance(attached, Attached)
    assert (attached.run_id, attached.task_id) == ("run-1", "task-1")
    told = read([first, STARTED, FINISHED])
    assert [type(x) for x in told[:2]] == [Attached, Finished]
    assert only_outcome(told[:2]).run_id == "run-1"


def test_a_whole_run() -> None:
    attached, finished = read([STARTED, event("text_chunk", data={"text": "A"}), FINISHED])
    assert attached == Attached("run-1", "task-1", "wf-1", None, None)
    assert finished == Finished(
        Outcome(
            RunStatus.SUCCEEDED,
            '{"answer": "A"}',
            tokens=7,
            seconds=1.5,
            run_id="run-1",
            task_id="task-1",
            workflow_id="wf-1",
        )
    )


@pytest.mark.parametrize("empty", [None, "", False])
def test_an_empty_id_is_no_id(empty: Any) -> None:
    nothing = {"event": "x", "workflow_run_id": empty, "task_id": "task-1", "message_id": empty}
    assert read([nothing]) == []
    assert [type(x) for x in read([nothing, STARTED, nothing, FINISHED])] == [Attached, Finished]
    assert len(read([STARTED, FINISHED | {"workflow_run_id": empty}])) == 2


def test_ids_without_a_workflow_are_completed_by_one() -> None:
    told = read([event("message", {"message_id": "m-1", "task_id": "task-1", "conversation_id": "c-1"}), STARTED])
    assert told == [
        Attached(None, "task-1", None, "m-1", "c-1"),
        Attached("run-1", "task-1", "wf-1", "m-1", "c-1"),
    ]
    assert read([event("message", CHAT), event("message", CHAT | {"message_id": "m-2"}), STARTED])[1:] == []


def test_the_id_of_a_run_without_ids_above() -> None:
    (finished,) = read([{"event": "workflow_finished", "data": FINISHED["data"]}])
    assert isinstance(finished, Finished)
    assert finished.outcome.run_id == "run-1"


# ── what is not ours, or not understood ─────────────────────────────────────────────────────────────────────────

OTHER_START = STARTED | {"workflow_run_id": "run-2", "data": {"inputs": {"sys.user_id": "u2"}}}
OTHER_END = FINISHED | {"workflow_run_id": "run-2", "data": {"id": "run-2", "status": "failed", "outputs": {"no": 1}}}


@pytest.mark.parametrize(
    "noise",
    [
        STARTED,
        OTHER_START,
        OTHER_END,
        event("node_finished", {"workflow_run_id": "run-2"}),
        event("hologram", data={"x": [1]}),
        event("text_chunk", data="no object"),
        event("node_finished", data=[1]),
        {"event": ["a"]},
        {"event": None, "data": None},
        {},
        [],
        7,
        None,
        "workflow_finished",
        b"",
        b"{",
        b'{"event": "workflow_finished", "workflow_run_id": "run-1"',
        b"\xff\xfe",
        b'{"event":"text_chunk","x":' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
    ids=repr,
)
def test_noise_changes_nothing(noise: Any) -> None:
    assert read([STARTED, noise, noise, FINISHED]) == read([STARTED, FINISHED])


def test_a_foreign_run_that_came_first() -> None:
    node = event("node_started", {"workflow_run_id": "run-2", "task_id": "task-2"})
    assert read([OTHER_START, node, OTHER_END, STARTED, FINISHED]) == read([STARTED, FINISHED])


def test_a_start_that_names_no_user_is_ours() -> None:
    assert len(read([event("workflow_started", data={"inputs": None})])) == 1


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────


def finished(**data: Any) -> dict[str, Any]:
    return event("workflow_finished", data=FINISHED["data"] | data)


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (finished(), RunStatus.SUCCEEDED, None),
        (finished(status="partial-succeeded"), RunStatus.PARTIAL, None),
        (finished(status="failed", error="boom"), RunStatus.FAILED, "boom"),
        (finished(status="failed", error=""), RunStatus.FAILED, None),
        (finished(status="failed", error={"code": 7}), RunStatus.FAILED, "{'code': 7}"),
        (finished(status="failed", error="a\ud800"), RunStatus.FAILED, "a\ufffd"),
        (finished(status="stopped", error="Stopped by user."), RunStatus.STOPPED, "Stopped by user."),
        (finished(status="levitating"), RunStatus.FAILED, "status 'levitating'"),
        (finished(status="levitating", error="why"), RunStatus.FAILED, "why"),
        (finished(status=None), RunStatus.FAILED, "status None"),
        (finished(status=["x"]), RunStatus.FAILED, "status ['x']"),
        (event("workflow_finished", data=None), RunStatus.FAILED, "status None"),
        (event("workflow_paused", data={"status": "paused", "outputs": {}}), RunStatus.PAUSED, None),
    ],
)
@pytest.mark.parametrize("mode", [Mode.WORKFLOW, Mode.CHATFLOW])
def test_ends(end: dict[str, Any], status: RunStatus, error: str | None, mode: Mode) -> None:
    outcome = only_outcome(read([STARTED, end], mode, ends=mode is Mode.CHATFLOW and error is None)[:2])
    assert (outcome.status, outcome.error, outcome.run_id, outcome.task_id) == (status, error, "run-1", "task-1")


def test_an_unknown_status_keeps_what_is_known() -> None:
    outcome = only_outcome(read([STARTED, finished(status="levitating")]))
    assert (outcome.outputs, outcome.tokens, outcome.workflow_id) == ('{"answer": "A"}', 7, "wf-1")


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ('{"a":1.50,  "b":123456789012345678901}', '{"a":1.50,  "b":123456789012345678901}'),
        ('{"a":"\\ud800 \u2028\u0085\x7f\\u0000😀"}', '{"a":"\\ud800 \u2028\u0085\x7f\\u0000😀"}'),
        ("null", "{}"),
        ("{}", "{}"),
        ('["x"]', '["x"]'),
        ('"text"', '"text"'),
    ],
)
def test_outputs_are_kept_as_they_came(outputs: str, expected: str) -> None:
    data = '{"event":"workflow_finished","workflow_run_id":"run-1","data":{"outputs":%s,"status":"succeeded"}}'
    assert only_outcome(read([(data % outputs).encode()])).outputs == expected
    body = b'{"workflow_run_id":"run-1","data":{"outputs": %s ,"status":"succeeded"}}' % outputs.encode()
    assert only_outcome(read_blocking(body, Mode.WORKFLOW)).outputs == expected
    _, outcome = read_detail(b'{"id":"run-1","status":"succeeded","outputs":%s}' % outputs.encode())
    assert outcome is not None
    assert outcome.outputs == expected


@pytest.mark.parametrize("status", ["running", "scheduled"])
def test_a_run_that_goes_on_has_no_end(status: str) -> None:
    """Whatever brought the word: it was paid for, so its end is looked for by its id."""
    going = {"event": "workflow_finished", "workflow_run_id": "run-1", "data": {"status": status, "outputs": {}}}
    assert [type(x) for x in read([going])] == [Attached]
    assert [type(x) for x in read([going, STARTED, FINISHED])] == [Attached, Finished]
    assert read_blocking(json.dumps(going).encode(), Mode.WORKFLOW) == read([going])


def test_no_outputs_at_all() -> None:
    assert only_outcome(read([event("workflow_finished", data={"status": "failed"})])).outputs == "{}"


BROKEN = b'{"workflow_run_id":"r","event":"workflow_finished","data":{"status":"succeeded","outputs":{"a":"\xc3\xff"}}}'


def test_bytes_that_are_no_text_are_flagged() -> None:
    outcome = only_outcome(read([BROKEN]))
    assert (outcome.damaged, outcome.outputs) == (True, '{"a":"\ufffd\ufffd"}')
    assert only_outcome(read_blocking(BROKEN, Mode.WORKFLOW)).damaged
    _, found = read_detail(b'{"id":"r","status":"failed","error":"\xff"}')
    assert found is not None
    assert (found.damaged, found.error) == (True, "\ufffd")
    assert not only_outcome(read([STARTED, FINISHED])).damaged


# ── chats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def said(text: Any, name: str = "message") -> dict[str, Any]:
    return event(name, CHAT, answer=text)


CHAT_END = event("message_end", CHAT, metadata={"usage": USAGE})
FLOW_END = event("workflow_finished", CHAT, data=FINISHED["data"] | {"outputs": {"answer": "from outputs"}})
FLOW_START = STARTED | CHAT


@pytest.mark.parametrize("mode", [Mode.CHAT, Mode.AGENT_CHAT, Mode.COMPLETION])
@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ([], ""),
        ([said("a"), said("b")], "ab"),
        ([said("a"), said(""), said(None), said("b", "agent_message")], "ab"),
        ([said("a"), event("message_file", CHAT, url="u"), said("b", "message_file")], "ab"),
        ([said("a"), said("new", "message_replace"), said("er")], "newer"),
        ([said("a"), said("", "message_replace")], ""),
        ([said("a"), event("agent_thought", CHAT, answer="no"), event("tts_message", CHAT, audio="x")], "a"),
        ([said("\ud83d"), said("\ude00")], "😀"),
        ([said("x\ud800")], "x\ud800"),
    ],
    ids=str,
)  # fmt: skip
def test_chats(mode: Mode, parts: list[Any], answer: str) -> None:
    told = read([*parts, CHAT_END], mode)
    outcome = only_outcome(told)
    assert [type(x) for x in told] == [Attached, Finished]
    assert json.loads(outcome.outputs) == {"answer": answer}
    assert outcome.outputs.encode()
    assert outcome.status is RunStatus.SUCCEEDED
    assert (outcome.tokens, outcome.seconds, outcome.price, outcome.currency) == (45, 1.2, "0.000057", "USD")
    assert (outcome.message_id, outcome.conversation_id, outcome.task_id) == ("m-1", "c-1", "task-1")


def test_an_answer_is_readable_where_it_can_be() -> None:
    assert only_outcome(read([said("你好"), CHAT_END], Mode.CHAT)).outputs == '{"answer": "你好"}'


@pytest.mark.parametrize(
    ("events", "ends", "answer", "price"),
    [
        ([said("a"), CHAT_END, FLOW_END], False, "a", "0.000057"),
        ([said("a"), FLOW_END, CHAT_END], False, "a", "0.000057"),
        ([said("a"), FLOW_END, FLOW_END, CHAT_END], False, "a", "0.000057"),
        ([said("a"), FLOW_END], True, "a", None),
        ([FLOW_END, CHAT_END], False, "from outputs", "0.000057"),
        ([said("", "message_replace"), FLOW_END, CHAT_END], False, "", "0.000057"),
        ([CHAT_END, finished(outputs={"else": 1})], False, "", "0.000057"),
    ],
    ids=["since 1.13.1", "before", "twice", "no message_end", "only outputs", "replaced by nothing", "no answer"],
)
def test_chatflow_orders(events: list[Any], ends: bool, answer: str, price: str | None) -> None:
    told = read([FLOW_START, *events], Mode.CHATFLOW, ends=ends)
    outcome = only_outcome(told)
    assert [type(x) for x in told] == [Attached, Finished]
    assert json.loads(outcome.outputs) == {"answer": answer}
    assert (outcome.price, outcome.tokens, outcome.seconds) == (price, 7, 1.5)
    assert (outcome.run_id, outcome.message_id, outcome.conversation_id) == ("run-1", "m-1", "c-1")


def test_a_chatflow_waits_for_its_usage_only_after_its_end() -> None:
    reader = RunReader(Mode.CHATFLOW, "u1")
    for now, nearly in ((FLOW_START, False), (said("a"), False), (FLOW_END, True)):
        reader.read(json.dumps(now).encode())
        assert reader.nearly_done is nearly
    assert reader.end() != []
    assert RunReader(Mode.CHATFLOW, "u1").end() == []


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_chatflow_that_failed_does_not_wait(status: str) -> None:
    outcome = only_outcome(
        read([FLOW_START, said("half"), finished(status=status, outputs={}, error="x")], Mode.CHATFLOW)
    )
    assert (outcome.status.value, outcome.outputs, outcome.error) == (status, "{}", "x")


def test_an_error_after_the_end_does_not_undo_it() -> None:
    error = event("error", CHAT, message="could not save the message", status=500)
    outcome = only_outcome(read([FLOW_START, said("a"), FLOW_END, error], Mode.CHATFLOW))
    assert (outcome.status, outcome.outputs, outcome.error) == (RunStatus.SUCCEEDED, '{"answer": "a"}', None)


# ── prices ──────────────────────────────────────────────────────────────────────────────────────────────────────


def node(price: Any, node_id: Any = None, currency: Any = "USD") -> dict[str, Any]:
    return event(
        "node_finished", data={"id": node_id, "execution_metadata": {"total_price": price, "currency": currency}}
    )


def inner(node_id: str, *, loop: bool = False) -> dict[str, Any]:
    told = node("0.1", node_id)
    told["data"] |= {"node_type": "llm", "iteration_id": None if loop else "it", "loop_id": "lo" if loop else None}
    return told


def container(name: str, price: str, kind: str = "iteration") -> dict[str, Any]:
    told = node(price, "it")
    told["data"] |= {"node_id": "it", "node_type": kind}
    return told | {"event": name}


@pytest.mark.parametrize(
    ("nodes", "price", "currency"),
    [
        ([], None, None),
        ([node("0.1", "a"), node("0.2", "b", None)], "0.3", "USD"),
        ([node("0.1", "a"), node("0.1", "a")], "0.1", "USD"),
        ([node("0.1"), node("0.1")], "0.2", "USD"),
        ([node("0E-7", "a")], "0.0000000", "USD"),
        ([node(0.25, "a")], "0.25", "USD"),
        ([node("0.1", "a"), node(None, "b"), node("free", "c"), node("NaN", "d"), node("Infinity", "e")], "0.1", "USD"),
        ([event("node_finished", data={"execution_metadata": None}), event("node_finished")], None, None),
        ([node("0.1", "a"), node("0.2", "b", "RMB")], None, None),
        ([node("-1", "a"), node("0.1", "b")], "0.1", "USD"),
        ([node("0.1", str(i)) for i in range(30)], "3.0", "USD"),
        # An iteration's own price is that of its inner nodes, told once more [contract §6.4].
        ([inner("a"), inner("b"), container("iteration_completed", "0.2")], "0.2", "USD"),
        ([inner("a"), inner("b"), container("node_finished", "0.2")], "0.2", "USD"),
        ([inner("a", loop=True), container("loop_completed", "0.1", "loop"), node("0.5", "c")], "0.6", "USD"),
        ([container("node_finished", "0.2", "loop")], None, None),
        # A node that was tried again tells its price when it has ended.
        ([event("node_retry", data=node("0.1", "a")["data"]), node("0.1", "a")], "0.1", "USD"),
    ],
)
def test_prices_of_nodes(nodes: list[Any], price: str | None, currency: str | None) -> None:
    outcome = only_outcome(read([STARTED, *nodes, FINISHED]))
    assert (outcome.price, outcome.currency) == (price, currency)


def test_the_price_of_the_message_counts_before_that_of_the_nodes() -> None:
    outcome = only_outcome(read([FLOW_START, node("9"), CHAT_END, FLOW_END], Mode.CHATFLOW))
    assert outcome.price == "0.000057"


@pytest.mark.parametrize("metadata", [None, {}, {"usage": None}, {"usage": []}, {"usage": {}}])
def test_no_usage(metadata: Any) -> None:
    outcome = only_outcome(read([said("a"), event("message_end", CHAT, metadata=metadata)], Mode.CHAT))
    assert (outcome.tokens, outcome.seconds, outcome.price, outcome.currency) == (None, None, None, None)


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED, ERRORED = FailureKind.REFUSED, FailureKind.ERRORED


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"status": 500, "message": "boom"}, Failure(ERRORED, "internal_server_error", "boom", 500)),
        ({"message": "boom"}, Failure(ERRORED, "internal_server_error", "boom", 500)),
        ({}, Failure(ERRORED, "internal_server_error", "", 500)),
        ({"status": "400", "message": "x", "code": "odd"}, Failure(ERRORED, "odd", "x", 500)),
        ({"status": 500, "message": "q is required in input form"},
         Failure(REFUSED, "invalid_param", "q is required in input form", 400)),
        ({"status": 500, "message": "Invalid upload file"},
         Failure(REFUSED, "invalid_param", "Invalid upload file", 400)),
        ({"status": 500, "message": "Workflow not published"},
         Failure(REFUSED, "invalid_param", "Workflow not published", 400)),
        ({"status": 400, "code": "provider_not_initialize", "message": "m"},
         Failure(REFUSED, "provider_not_initialize", "m", 400)),
        ({"status": 429, "code": "rate_limit_error", "message": "m"}, Failure(REFUSED, "rate_limit_error", "m", 429)),
        ({"status": 404}, Failure(REFUSED, "http_404", "", 404)),
        ({"status": 503, "message": ["x"]}, Failure(ERRORED, "internal_server_error", "['x']", 503)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", list(Mode))
def test_an_error_before_any_run(error: dict[str, Any], failure: Failure, mode: Mode) -> None:
    with pytest.raises(DifyFailureError) as caught:
        read([{"event": "error"} | error], mode)
    assert caught.value.failure == failure


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([STARTED, {"event": "error", "status": 500, "message": "boom"}], "boom"),
        ([STARTED, {"event": "error", "status": 400, "code": "invalid_param"}], "invalid_param"),
        ([event("error", {"workflow_run_id": "run-1"}, message="boom")], "boom"),
        ([event("error", {"message_id": "m-1"}, message="boom", code="completion_request_error")], "boom"),
        ([said("half"), event("error", CHAT, message="boom")], "boom"),
        ([{"event": "error", "code": "completion_request_error", "message": "Rate Limit Error"}], "Rate Limit Error"),
        ([STARTED, {"event": "error"}], ""),
    ],
)
def test_an_error_of_a_run(events: list[Any], error: str) -> None:
    outcome = only_outcome(read(events, Mode.CHATFLOW))
    assert (outcome.status, outcome.error) == (RunStatus.FAILED, error)


@pytest.mark.parametrize("mode", [Mode.WORKFLOW, Mode.CHATFLOW, Mode.CHAT])
def test_a_run_that_dify_left_alone_is_looked_for(mode: Mode) -> None:
    start = said("half") if mode is Mode.CHAT else FLOW_START
    text = "queue listening stopped unexpectedly."
    with pytest.raises(DifyFailureError) as caught:
        read([start, {"event": "error", "status": 400, "code": "invalid_param", "message": text}], mode)
    assert caught.value.failure == Failure(FailureKind.CUT, "stream_ended", text)


def test_the_code_of_an_error_is_kept() -> None:
    error = event("error", CHAT, status=400, code="provider_quota_exceeded", message="Your quota is …")
    assert only_outcome(read([said(""), error], Mode.CHAT)).code == "provider_quota_exceeded"
    assert only_outcome(read([STARTED, event("error", message="boom")])).code is None


# ── answers that are no stream ──────────────────────────────────────────────────────────────────────────────────


def blocking(answer: Any, mode: Mode = Mode.WORKFLOW) -> tuple[Attached, Outcome]:
    attached, end = read_blocking(json.dumps(answer).encode(), mode)
    assert isinstance(attached, Attached)
    assert isinstance(end, Finished)
    return attached, end.outcome


@pytest.mark.parametrize("status", [*RunStatus, "levitating"])
def test_blocking_workflow(status: str) -> None:
    attached, outcome = blocking(RUN | {"data": FINISHED["data"] | {"status": status, "outputs": {}}})
    assert attached == Attached("run-1", "task-1", "wf-1")
    assert outcome.status == (status if status in list(RunStatus) else RunStatus.FAILED)
    assert (outcome.run_id, outcome.task_id, outcome.workflow_id, outcome.tokens) == ("run-1", "task-1", "wf-1", 7)


@pytest.mark.parametrize("mode", [Mode.CHAT, Mode.CHATFLOW, Mode.COMPLETION])
@pytest.mark.parametrize("usage", [USAGE, USAGE | {"total_price": 0.000057}])
def test_blocking_chat(mode: Mode, usage: dict[str, Any]) -> None:
    ids = {"task_id": "t", "message_id": "m-1", "conversation_id": "c-1"}
    attached, outcome = blocking(ids | {"answer": "hé\ud800", "metadata": {"usage": usage}}, mode)
    assert attached == Attached(None, "t", None, "m-1", "c-1")
    assert json.loads(outcome.outputs) == {"answer": "hé\ud800"}
    assert outcome.outputs.isascii()
    assert (outcome.status, outcome.run_id, outcome.message_id) == (RunStatus.SUCCEEDED, None, "m-1")
    assert (outcome.tokens, outcome.seconds, outcome.currency) == (45, 1.2, "USD")
    assert outcome.price in ("0.000057", "5.7e-05")
    assert json.loads(blocking(ids | {"answer": None, "metadata": None}, mode)[1].outputs) == {"answer": ""}


def test_blocking_chatflow_that_waits_for_a_person() -> None:
    paused = CHAT | {"event": "workflow_paused", "data": {"status": "paused", "paused_nodes": ["n"], "outputs": {}}}
    attached, outcome = blocking(paused, Mode.CHATFLOW)
    assert (attached.run_id, outcome.run_id, outcome.status) == ("run-1", "run-1", RunStatus.PAUSED)


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        (b"", Mode.WORKFLOW),
        (b"{", Mode.CHAT),
        (b"[]", Mode.WORKFLOW),
        (b"null", Mode.CHAT),
        (b'{"answer": "x"}', Mode.WORKFLOW),
        (b'{"data": [1]}', Mode.WORKFLOW),
        (b'{"result": "success"}', Mode.CHATFLOW),
        (b"[" * 5000, Mode.WORKFLOW),
    ],
)
def test_an_answer_that_may_stand_for_a_run(body: bytes, mode: Mode) -> None:
    with pytest.raises(DifyFailureError) as caught:
        read_blocking(body, mode)
    failure = caught.value.failure
    assert (failure.kind, failure.code) == (FailureKind.AMBIGUOUS, "reply_unreadable")
    assert body.decode().startswith(failure.message)


@pytest.mark.parametrize("status", ["running", "scheduled", None, "levitating", 7, ["x"]])
def test_detail_of_a_run_that_goes_on(status: Any) -> None:
    detail, outcome = read_detail(json.dumps({"id": "run-1", "status": status, "outputs": None}).encode())
    assert (detail["id"], outcome) == ("run-1", None)


def test_detail_of_a_run_that_ended() -> None:
    known = FINISHED["data"] | {"id": "run-1", "workflow_id": "wf-1", "outputs": {"a": 1}, "created_at": None}
    _, outcome = read_detail(json.dumps(known).encode())
    assert outcome == Outcome(
        RunStatus.SUCCEEDED, '{"a": 1}', tokens=7, seconds=1.5, run_id="run-1", workflow_id="wf-1"
    )
    _, outcome = read_detail(b'{"id": "run-1", "status": "failed", "outputs": null, "total_tokens": null}')
    assert outcome == Outcome(RunStatus.FAILED, run_id="run-1")


def test_detail_that_is_none() -> None:
    assert read_detail(b'{"id": null, "status": null}') == ({"id": None, "status": None}, None)
    assert read_detail(b"[]") == ({}, None)
    with pytest.raises(DifyFailureError) as caught:
        read_detail(b"{")
    assert caught.value.failure.code == "reply_unreadable"


# ── anything at all ─────────────────────────────────────────────────────────────────────────────────────────────

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "run-1", "failed", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "usage", "inputs"]), inner),
    max_leaves=5,
)  # fmt: skip
fields = [
    "workflow_run_id",
    "task_id",
    "message_id",
    "conversation_id",
    "answer",
    "code",
    "status",
    "message",
    "metadata",
]
parts = [
    "id",
    "workflow_id",
    "status",
    "outputs",
    "error",
    "elapsed_time",
    "total_tokens",
    "inputs",
    "execution_metadata",
]
names = ["workflow_started", "workflow_finished", "workflow_paused", "message", "message_end", "message_replace"]
names += ["node_finished", "error", "message_file"]
wild = st.builds(
    lambda name, top, data: {"event": name, **top, "data": data},
    st.sampled_from(names) | anything,
    st.dictionaries(st.sampled_from(fields), anything),
    st.dictionaries(st.sampled_from(parts), anything) | anything,
)


def check(told: list[RunEvent]) -> None:
    """Whatever comes in, what goes out can be stored."""
    for one in told:
        if isinstance(one, Attached):
            one_of = [one.run_id, one.task_id, one.workflow_id, one.message_id, one.conversation_id]
        else:
            assert isinstance(one, Finished)
            out = one.outcome
            json.loads(out.outputs)
            assert all(isinstance(n, int | float | None) and abs(n or 0) < 2**63 for n in (out.tokens, out.seconds))
            one_of = [out.outputs, out.error, out.run_id, out.task_id, out.workflow_id, out.price, out.currency]
        assert all(text is None or "\ud800" not in text for text in one_of)


def attempt(reading: Callable[[], list[RunEvent]]) -> tuple[list[RunEvent], FailureKind | None]:
    try:
        return reading(), None
    except DifyFailureError as error:
        return [], error.failure.kind


@settings(deadline=None)
@given(st.lists(wild, max_size=4), st.sampled_from(list(Mode)))
def test_anything_at_all(events: list[dict[str, Any]], mode: Mode) -> None:
    reader = RunReader(mode, "u1")
    for one in events:
        told, kind = attempt(lambda one=one: reader.read(json.dumps(one).encode()))
        check(told)
        assert kind in (None, REFUSED, ERRORED)
    check(reader.end())


@settings(deadline=None)
@given(wild, st.sampled_from(list(Mode)))
def test_any_answer_at_all(answer: dict[str, Any], mode: Mode) -> None:
    body = json.dumps(answer).encode()
    told, kind = attempt(lambda: read_blocking(body, mode))
    check(told)
    assert kind in (None, FailureKind.AMBIGUOUS)
    _, outcome = read_detail(json.dumps(answer["data"]).encode())
    check([] if outcome is None else [Finished(outcome)])


# ── what a paused run asks for ──────────────────────────────────────────────────────────────────────────────────

QUESTION = {
    "form_id": "f-1", "node_id": "n-1", "node_title": "Approval", "form_content": "OK? 你好", "form_token": "tok",
    "inputs": [{"type": "paragraph", "output_variable_name": "why"}], "actions": [{"id": "yes", "title": "Yes"}],
    "resolved_default_values": {}, "expiration_time": 1780000000,
}  # fmt: skip
REASON = {"TYPE": "human_input_required", **QUESTION}


def paused(**data: Any) -> dict[str, Any]:
    return event("workflow_paused", data={"status": "paused", "outputs": {}, "total_tokens": 3, **data})


@pytest.mark.parametrize(
    ("events", "asks"),
    [
        ([paused(reasons=[REASON | {"display_in_ui": True}])], [REASON]),
        ([event("human_input_required", data=QUESTION), paused(reasons=[REASON])], [REASON]),
        ([event("human_input_required", data=QUESTION), paused()], [REASON]),
        ([paused(reasons=[{"TYPE": "scheduled_pause", "message": "later"}])],
         [{"TYPE": "scheduled_pause", "message": "later"}]),
        ([paused(reasons=[REASON | {"form_token": None}])], [{k: v for k, v in REASON.items() if k != "form_token"}]),
        ([paused(reasons=[])], None),
        ([paused(reasons=[7, None])], None),
        ([paused(reasons="x")], None),
        ([paused()], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", [Mode.WORKFLOW, Mode.CHATFLOW])
def test_what_a_paused_run_asks_for(events: list[Any], asks: Any, mode: Mode) -> None:
    outcome = only_outcome(read([STARTED, *events], mode))
    assert (outcome.status, outcome.run_id, outcome.tokens) == (RunStatus.PAUSED, "run-1", 3)
    assert (json.loads(outcome.asks) if outcome.asks else None) == asks


def test_a_blocking_run_asks_as_well() -> None:
    data = FINISHED["data"] | {"status": "paused", "outputs": {}, "reasons": [REASON], "paused_nodes": ["n-1"]}
    assert json.loads(blocking(RUN | {"data": data})[1].asks or "") == [REASON]
    chat = CHAT | {"event": "workflow_paused", "data": data}
    assert json.loads(blocking(chat, Mode.CHATFLOW)[1].asks or "") == [REASON]
    assert blocking(RUN | {"data": FINISHED["data"] | {"reasons": [REASON]}})[1].asks is None


def test_a_question_with_half_a_character_can_be_kept() -> None:
    asks = only_outcome(read([STARTED, paused(reasons=[{"form_content": "\ud83d"}])])).asks
    assert asks is not None
    assert json.loads(asks) == [{"form_content": "\ud83d"}]
    assert asks.encode()
