"""The shapes of Dify's answers and events, as recorded."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import orjson

from rowmill.testing.fake_dify.runs import CHATS

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.runs import Run


def event(run: Run, name: str, data: dict[str, Any] | None = None, **top: Any) -> bytes:
    """One event with the ids that its kind of app puts into it."""
    head: dict[str, Any] = {"event": name}
    if run.app.mode in CHATS:
        head["conversation_id"] = run.conversation_id
    if run.app.mode != "workflow":
        head |= {"message_id": run.message_id, "created_at": int(run.began)}
    head["task_id"] = run.task_id
    if data is not None:
        head |= {"workflow_run_id": run.run_id, "data": data}
    return b"data: " + orjson.dumps({**head, **top}) + b"\n\n"


def error(run: Run, status: int, code: str, message: str) -> bytes:
    """An error during the run: without a task id, unlike every other event."""
    ids = {"workflow_run_id": run.run_id} if run.app.mode == "workflow" else {"message_id": run.message_id}
    told = {"event": "error", **ids, "status": status, "code": code, "message": message}
    return b"data: " + orjson.dumps(told) + b"\n\n"


def has_workflow(run: Run) -> bool:
    return run.app.mode in ("workflow", "advanced-chat")


def _system(run: Run) -> dict[str, Any]:
    """The variables that Dify adds to the inputs."""
    known: dict[str, Any] = {"sys.files": [], "sys.user_id": run.user}
    if run.app.mode != "workflow":
        known = {"sys.query": run.query, **known, "sys.dialogue_count": run.turn}
    return {
        **known,
        "sys.app_id": run.app.app_id,
        "sys.workflow_id": run.workflow_id,
        "sys.workflow_run_id": run.run_id,
    }


def started(run: Run) -> bytes:
    """What a run says when it begins."""
    if not has_workflow(run):
        return b""
    data = {
        "id": run.run_id,
        "workflow_id": run.workflow_id,
        "inputs": {**run.inputs, **_system(run)},
        "created_at": int(run.began),
    }
    if run.profile.tells_reason:
        data["reason"] = "initial"
    return event(run, "workflow_started", data) + node_started(run, 0)


def _node(run: Run, index: int) -> dict[str, Any]:
    name, kind = run.doing.nodes[index]
    return {
        "id": f"{run.run_id[:-4]}{index:04x}",
        "node_id": name,
        "node_type": kind,
        "title": name.title(),
        "index": 1,
        "predecessor_node_id": None,
        "inputs": None,
        "inputs_truncated": False,
        "created_at": int(run.began),
    }


_LOOSE = {"iteration_id": None, "loop_id": None}


def node_started(run: Run, index: int) -> bytes:
    return event(run, "node_started", {**_node(run, index), "extras": {}, **_LOOSE, "agent_strategy": None})


def node_finished(run: Run, index: int, status: str = "succeeded") -> bytes:
    return event(run, "node_finished", _node_end(run, index, status))


def _node_end(run: Run, index: int, status: str) -> dict[str, Any]:
    kind = run.doing.nodes[index][1]
    outputs = run.inputs if index == 0 else run.doing.outputs
    return {
        **_node(run, index),
        "inputs": run.inputs if kind != "http-request" else {},
        "process_data": {},
        "process_data_truncated": False,
        "outputs": {} if status in ("failed", "retry") else outputs,
        "outputs_truncated": False,
        "status": status,
        "error": {"succeeded": None, "exception": "Unknown error"}.get(status, run.error),
        "elapsed_time": 0.0001,
        "execution_metadata": _node_metadata(run, kind, status),
        "finished_at": int(time.time()),
        "files": [],
        **_LOOSE,
    }


def _node_metadata(run: Run, kind: str, status: str) -> dict[str, Any] | None:
    if kind == "llm":
        return {"total_tokens": run.doing.tokens, "total_price": run.doing.price, "currency": "USD"}
    return {"error_strategy": run.doing.rescued_by} if status == "exception" else None


def until_work(run: Run) -> bytes:
    """After the start, up to the node that takes the time."""
    if not has_workflow(run):
        return b""
    return _node_told(run, 0, "succeeded") + node_started(run, 1)


def after_work(run: Run) -> bytes:
    """From the node that takes the time to the last one. A stopped run says nothing of them."""
    if not has_workflow(run):
        return b"".join(text(run, chunk) for _, chunk in run.doing.chunks)
    if run.status == "stopped" and run.stop_asked:
        return b""
    last = len(run.doing.nodes) - 1
    nodes = [_node_told(run, 1, _node_status(run, 1, last))]
    for index in range(2, last + 1):
        nodes += [node_started(run, index), _node_told(run, index, _node_status(run, index, last))]
    return b"".join(nodes)


def _node_status(run: Run, index: int, last: int) -> str:
    if run.status == "failed" and index == last:
        return "failed"
    return "exception" if run.doing.rescued_by and index == 1 else "succeeded"


def _node_told(run: Run, index: int, status: str) -> bytes:
    """What is said between a node's start and its end, and the end."""
    parts = [_retry(run, count) for count in range(1, run.doing.retries + 1)] if index == 1 else []
    if status != "failed":
        parts += [text(run, chunk) for at, chunk in run.doing.chunks if at == index]
    return b"".join([*parts, node_finished(run, index, status)])


def _retry(run: Run, count: int) -> bytes:
    told = _node_end(run, 1, "retry")
    error = f"{run.profile.http_error} http://127.0.0.1:9701/flaky"
    return event(run, "node_retry", {**told, "error": error, "retry_index": count})


def text(run: Run, chunk: str) -> bytes:
    where = ["answer", "answer"]
    if run.app.mode == "workflow":
        return event(run, "text_chunk", {"text": chunk, "from_variable_selector": where})
    name = "agent_message" if run.app.mode == "agent-chat" else "message"
    return event(run, name, id=run.message_id, answer=chunk, from_variable_selector=where)


def finished(run: Run, raw_outputs: str | None = None) -> bytes:
    """The last events."""
    closing = b""
    if run.app.mode != "workflow" and run.status in ("succeeded", "partial-succeeded"):
        closing = event(run, "message_end", id=run.message_id, metadata=metadata(run), files=[])
    if not has_workflow(run):
        return closing
    if run.status == "paused":
        asks = event(run, "human_input_required", question(run)) if run.profile.asks_people else b""
        return asks + event(run, "workflow_paused", _pause(run))
    data = {
        **result(run),
        "created_by": {"id": run.message_id, "user": run.user},
        "exceptions_count": _exceptions(run),
        "files": [],
    }
    ending = event(run, "workflow_finished", data if raw_outputs is None else {**data, "outputs": "@@raw@@"})
    if raw_outputs is not None:
        ending = ending.replace(b'"@@raw@@"', raw_outputs.encode())
    return closing + ending if run.profile.message_end_first else ending + closing


def _exceptions(run: Run) -> int:
    if run.status == "failed":
        return run.doing.exceptions + 1
    return run.doing.exceptions or int(run.status == "partial-succeeded")


def question(run: Run) -> dict[str, Any]:
    """What a paused run asks a person for."""
    return {
        "form_id": run.message_id,
        "node_id": "ask",
        "node_title": "Approval",
        "form_content": "Please approve this answer.",
        "inputs": [{"type": "paragraph", "output_variable_name": "comment"}],
        "actions": [
            {"id": "yes", "title": "Approve", "button_style": "primary"},
            {"id": "no", "title": "Reject", "button_style": "default"},
        ],
        "display_in_ui": False,
        "form_token": form_token(run),
        "resolved_default_values": {},
        "expiration_time": int(run.began) + 7 * 86400,
    }


def form_token(run: Run) -> str:
    return f"form-{run.run_id}"


def _reasons(run: Run) -> dict[str, Any]:
    """1.13 names no reasons."""
    if not run.profile.asks_people:
        return {}
    return {"paused_nodes": ["ask"], "reasons": [{"TYPE": "human_input_required", **question(run)}]}


def _pause(run: Run) -> dict[str, Any]:
    counts = {"elapsed_time": run.seconds, "total_tokens": 0, "total_steps": 1, "created_at": int(run.began)}
    ids = {"workflow_run_id": run.run_id, "paused_nodes": ["ask"], "outputs": {}, "reasons": [], **_reasons(run)}
    return {**ids, "status": "paused", **counts}


def result(run: Run) -> dict[str, Any]:
    """The core of a run's end: in the stream, in a blocking answer."""
    done = run.status not in ("running", "paused")
    return {
        "id": run.run_id,
        "workflow_id": run.workflow_id,
        "status": run.status,
        "outputs": run.outputs,
        "error": run.error,
        "elapsed_time": run.seconds if done else 0.0,
        "total_tokens": run.doing.tokens if done else 0,
        "total_steps": _steps(run) if done else 0,
        "created_at": int(run.began),
        "finished_at": int(run.ended) if run.ended and done else None,
    }


def _steps(run: Run) -> int:
    """A stopped run came as far as its second node."""
    return min(run.doing.steps, 2) if run.stop_asked else run.doing.steps


def metadata(run: Run) -> dict[str, Any]:
    price = f"{run.doing.tokens * 0.000002:.7f}"
    usage = {
        "prompt_tokens": run.doing.tokens, "prompt_unit_price": "0.002", "prompt_price_unit": "0.001",
        "prompt_price": price, "completion_tokens": 0, "completion_unit_price": "0.0", "completion_price_unit": "0.0",
        "completion_price": "0.0", "total_tokens": run.doing.tokens, "total_price": price, "currency": "USD",
        "latency": run.seconds, "time_to_first_token": 0.03, "time_to_generate": 0.0,
    }  # fmt: skip
    return {"annotation_reply": None, "retriever_resources": [], "usage": usage}


def blocking(run: Run, raw_outputs: str | None = None) -> bytes:
    """The answer to a blocking request; ASCII with escapes, as Dify writes it."""
    if run.app.mode == "workflow":
        more = _reasons(run) if run.status == "paused" else {}
        body = {"task_id": run.task_id, "workflow_run_id": run.run_id, "data": {**result(run), **more}}
        if raw_outputs is not None:
            body["data"] = {**result(run), "outputs": "@@raw@@"}
        return json.dumps(body).replace('"@@raw@@"', raw_outputs or "").encode()
    ids: dict[str, Any] = {
        "event": "message",
        "task_id": run.task_id,
        "id": run.message_id,
        "message_id": run.message_id,
    }
    if run.app.mode in CHATS:
        ids["conversation_id"] = run.conversation_id
    told = {"mode": run.app.mode, "answer": run.doing.outputs.get("answer", ""), "metadata": metadata(run)}
    return json.dumps({**ids, **told, "created_at": int(run.began)}).encode()


def detail(run: Run) -> dict[str, Any]:
    """`GET /workflows/run/{id}`: inputs are JSON text."""
    system = _system(run)
    if run.app.mode == "workflow" and run.profile.tells_reason:
        system["sys.timestamp"] = int(run.began)
    shown = result(run)
    if run.profile.outputs_as_text:
        shown["outputs"] = json.dumps(shown["outputs"])
    return {**shown, "inputs": json.dumps({**run.inputs, **system}, ensure_ascii=True)}


def log_line(run: Run) -> dict[str, Any]:
    core = result(run)
    shown = {key: core[key] for key in ("id", "status", "error", "elapsed_time", "total_tokens", "total_steps")}
    return {
        "id": run.message_id,
        "workflow_run": {
            **shown,
            "version": "2026-11-23 21:49:25.664182",
            "triggered_from": "app-run",
            "created_at": core["created_at"],
            "finished_at": core["finished_at"],
            "exceptions_count": _exceptions(run),
        },
        "details": None,
        "created_from": "service-api",
        "created_by_role": "end_user",
        "created_by_account": None,
        "created_by_end_user": {
            "id": run.message_id, "type": "service-api", "is_anonymous": False, "session_id": run.user,
        },
        "created_at": int(run.began),
    }  # fmt: skip


def refusal(code: str, message: str, status: int) -> bytes:
    return orjson.dumps({"code": code, "message": message, "status": status})
