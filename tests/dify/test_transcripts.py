"""Every recorded exchange of real Dify servers, through the client and a real socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rowmill.dify.client import Deadlines, DifyClient
from rowmill.dify.form import read_form
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import SIDE_FIELDS, Mode
from rowmill.domain.verdict import FailureKind
from rowmill.ports.dify import Attached, Finished, Opened, RunRequest
from tests.dify.recordings import Recording, all_recordings, replayed

RECORDINGS = all_recordings()
RUNS = ("/workflows/run", "/chat-messages", "/completion-messages")
PATIENT = Deadlines(connect=10, answer=10, first_event=10, silence=10, run=10)
IMPATIENT = Deadlines(connect=10, answer=10, first_event=0.3, silence=0.3, run=10)


def mode_of(recording: Recording) -> Mode:
    if recording.path.startswith("/chat-messages"):
        return Mode.CHATFLOW
    return Mode.COMPLETION if recording.path.startswith("/completion") else Mode.WORKFLOW


def is_run(recording: Recording) -> bool:
    path = recording.path.split("?")[0]
    started = path in RUNS or (path.startswith("/workflows/") and path.endswith("/run"))
    return recording.method == "POST" and started


def ids(recordings: list[Recording]) -> list[str]:
    return [f"{r.version}/{r.name}" for r in recordings]


RUN_RECORDINGS = [r for r in RECORDINGS if is_run(r)]
OTHERS = [r for r in RECORDINGS if not is_run(r)]


def request_of(recording: Recording) -> RunRequest:
    """The request as our client would make it; what a client cannot send wrongly is sent rightly: the answer is what
    is being tested."""
    try:
        sent = recording.sent
    except ValueError:
        sent = {}
    sent = sent if isinstance(sent, dict) else {}
    inputs = sent.get("inputs")
    return RunRequest(
        inputs if isinstance(inputs, dict) else {},
        str(sent.get("user") or "u1"),
        query=sent.get("query"),
        streaming=sent.get("response_mode") == "streaming",
    )


async def run(recording: Recording, cuts: int = 0) -> tuple[list[Any], DifyFailureError | None]:
    async with (
        replayed(recording, cuts) as (url, _),
        DifyClient(
            url, "app-XXXX", mode_of(recording), deadlines=IMPATIENT if recording.timed_out else PATIENT
        ) as client,
    ):
        events: list[Any] = []
        try:
            async for event in client.run(request_of(recording)):
                events.append(event)
        except DifyFailureError as error:
            return events, error
        return events, None


def test_all_recordings_are_here() -> None:
    assert len(RECORDINGS) > 180
    assert len(RUN_RECORDINGS) > 100


@pytest.mark.parametrize("recording", RUN_RECORDINGS, ids=ids(RUN_RECORDINGS))
@pytest.mark.parametrize("cuts", [0, 7], ids=["whole", "cut"])
async def test_run(recording: Recording, cuts: int) -> None:
    events, error = await run(recording, cuts)
    if recording.status != 200:
        check_refusal(recording, error)
    elif recording.is_stream:
        check_stream(recording, events, error)
    else:
        check_answer(recording, events, error)


def check_refusal(recording: Recording, error: DifyFailureError | None) -> None:
    """An answer that is no run: never taken for one, and Dify's own code and words kept."""
    body = json.loads(recording.answer) if recording.answer.startswith(b"{") else {}
    if str(body.get("message", "")).startswith("Run failed:"):
        assert error is None  # a blocking chatflow that ran and failed: see test_failed_chatflow
        return
    assert error is not None
    assert error.failure.status == recording.status
    assert error.failure.kind is (FailureKind.ERRORED if recording.status >= 500 else FailureKind.REFUSED)
    if "code" in body:
        assert error.failure.code == body["code"]
        assert error.failure.message == body["message"][:2000]


def check_stream(recording: Recording, events: list[Any], error: DifyFailureError | None) -> None:
    ends = [e for e in recording.events if e["event"] == "workflow_finished"]
    if not ends:
        # Refused inputs while streaming: a ping, then silence.
        assert error is not None
        assert error.failure.kind is FailureKind.AMBIGUOUS
        assert error.failure.code == "no_run_seen"
        return
    assert error is None
    end = ends[0]
    opened, attached, finished = events
    assert isinstance(opened, Opened)
    assert isinstance(attached, Attached)
    assert isinstance(finished, Finished)
    assert attached.run_id == end["workflow_run_id"] == finished.outcome.run_id
    assert attached.task_id == end["task_id"]
    assert finished.outcome.status.value == end["data"]["status"]
    assert finished.outcome.error == end["data"]["error"]
    assert finished.outcome.tokens == end["data"]["total_tokens"]
    if mode_of(recording) is Mode.WORKFLOW:
        assert json.loads(finished.outcome.outputs) == end["data"]["outputs"]
        assert finished.outcome.outputs.encode() in recording.answer
    elif end["data"]["status"] == "succeeded":
        told = "".join(e["answer"] for e in recording.events if e["event"] == "message")
        assert json.loads(finished.outcome.outputs)["answer"] == told


def check_answer(recording: Recording, events: list[Any], error: DifyFailureError | None) -> None:
    assert error is None
    opened, attached, finished = events
    assert isinstance(opened, Opened)
    assert attached.task_id == recording.json["task_id"]
    if "data" in recording.json:
        data = recording.json["data"]
        assert finished.outcome.status.value == data["status"]
        assert finished.outcome.error == data["error"]
        assert json.loads(finished.outcome.outputs) == data["outputs"]
        assert finished.outcome.outputs.encode() in recording.answer
        assert finished.outcome.run_id == data["id"]
    else:
        assert json.loads(finished.outcome.outputs) == {"answer": recording.json["answer"]}
        assert finished.outcome.conversation_id == recording.json["conversation_id"]


async def test_failed_chatflow() -> None:
    (recording,) = [r for r in RUN_RECORDINGS if r.name == "15-chat-node-fails-blocking"]
    events, error = await run(recording)
    assert error is None
    assert events[-1].outcome.status.value == "failed"
    assert events[-1].outcome.error.startswith("Reached maximum retries")


async def call(client: DifyClient, recording: Recording) -> Any:
    path, _, query = recording.path.partition("?")
    match path.strip("/").split("/"):
        case ["info"]:
            return (await client.info())[0]
        case ["parameters"]:
            return await client.parameters()
        case ["meta"]:
            return await client.meta()
        case ["site"]:
            return await client.site()
        case ["workflows", "run", run_id]:
            return await client.run_detail(run_id)
        case ["workflows", "logs"]:
            if "end_user" in query:
                return await client.runs_of("u-disc", 0)
            return await client.logs()
        case ["workflows", "tasks", task, "stop"] | ["chat-messages", task, "stop"]:
            return await client.stop(task, "u1")
        case ["files", "upload"]:
            return await client.upload("p.png", b"x", "image/png", "u1")
        case _:
            pytest.skip(f"the client has no call for {recording.method} {path}")


# Routes that a batch client has no call for; everything else must be replayed.
NOT_OURS = ("/conversations", "/messages", "/")
CALLS = [r for r in OTHERS if r.path.split("?")[0] not in NOT_OURS and r.method in ("GET", "POST")]
CALLS = [r for r in CALLS if r.name not in ("05-wrong-method",)]


@pytest.mark.parametrize("recording", CALLS, ids=ids(CALLS))
async def test_call(recording: Recording) -> None:
    mode = Mode.CHATFLOW if "chat" in recording.name else Mode.WORKFLOW
    async with replayed(recording) as (url, requests), DifyClient(url, "app-XXXX", mode, deadlines=PATIENT) as client:
        try:
            answer = await call(client, recording)
        except DifyFailureError as error:
            check_refusal(recording, error)
            return
        assert recording.status in (200, 201) or answer is None
        check_call(recording, answer)
        assert b"Authorization: Bearer app-XXXX" in requests[0]


def check_call(recording: Recording, answer: Any) -> None:
    path = recording.path.split("?")[0]
    if path in ("/info", "/parameters", "/meta", "/site"):
        assert answer == recording.json
    elif path.startswith("/workflows/run/") and answer is not None:
        assert answer.status == recording.json["status"]
        assert json.loads(answer.outcome.outputs) == recording.json["outputs"]
        assert answer.inputs["sys.user_id"]
    elif path == "/workflows/logs" and isinstance(answer, list):
        assert [run.run_id for run in answer] == [line["workflow_run"]["id"] for line in recording.json["data"]]
        assert [run.created_at for run in answer] == [
            line["workflow_run"]["created_at"] for line in recording.json["data"]
        ]
    elif path == "/files/upload":
        assert answer.file_id == recording.json["id"]


FORMS = [r for r in RECORDINGS if r.name.startswith("01-parameters")]


@pytest.mark.parametrize("recording", FORMS, ids=ids(FORMS))
def test_form(recording: Recording) -> None:
    mode = Mode.CHATFLOW if "chatflow" in recording.name else Mode.WORKFLOW
    form = read_form(recording.json, mode)
    declared = [next(iter(item.values()))["variable"] for item in recording.json["user_input_form"]]
    assert [f.variable for f in form.fields if f.variable not in SIDE_FIELDS] == declared
    assert (form.field("sys.query") is not None) == (mode is Mode.CHATFLOW)
