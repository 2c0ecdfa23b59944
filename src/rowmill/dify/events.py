"""Dify's stream events and blocking answers -> what the engine acts on. No I/O (contract §3, §6.4)."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from rowmill.dify.raw import member_text, read_json
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.causes import Cause, cause_of_text
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Finished, RunEvent

_STATUSES = {status.value for status in RunStatus}
_ANSWER_EVENTS = ("message", "agent_message", "message_file")


class RunReader:
    """Reads the events of one run. `user` is the one that started it: events of another run are told by it."""

    def __init__(self, mode: Mode, user: str) -> None:
        self._mode = mode
        self._user = user
        self._foreign: set[str] = set()
        self._answer: list[str] = []
        self._message_end: dict[str, Any] | None = None
        self._outcome: Outcome | None = None
        self._prices: list[Decimal] = []
        self._currency: str | None = None
        self.attached: Attached | None = None

    @property
    def nearly_done(self) -> bool:
        """The outcome is known; only a chatflow's usage may still come (before 1.13.1 it came last)."""
        return self._outcome is not None

    def read(self, data: bytes) -> list[RunEvent]:
        """What one event means; [] for most. Raises DifyFailureError for an `error` before any run."""
        text, damaged = _decode(data)
        try:
            event = read_json(text)
        except ValueError:
            return []  # a broken line is no reason to drop a run that goes on
        if not isinstance(event, dict) or self._is_foreign(event):
            return []
        return self._note_ids(event) + self._act(event, text, damaged=damaged)

    def end(self) -> list[RunEvent]:
        """The stream is over: the outcome that was held back for its usage, if there is one."""
        return [Finished(self._with_usage(self._outcome))] if self._outcome is not None else []

    def _is_foreign(self, event: dict[str, Any]) -> bool:
        run_id = event.get("workflow_run_id")
        if run_id is None:
            return False
        if self.attached is not None and self.attached.run_id is not None:
            return bool(run_id != self.attached.run_id)
        inputs = _object(_object(event.get("data")).get("inputs"))
        if event.get("event") == "workflow_started" and inputs.get("sys.user_id", self._user) != self._user:
            self._foreign.add(run_id)
        return run_id in self._foreign

    def _note_ids(self, event: dict[str, Any]) -> list[RunEvent]:
        run_id, task_id, message_id = event.get("workflow_run_id"), event.get("task_id"), event.get("message_id")
        known = self.attached
        if not (run_id or message_id) or (known is not None and (known.run_id or not run_id)):
            return []
        self.attached = Attached(
            run_id=run_id,
            task_id=task_id or (known.task_id if known else None),
            workflow_id=_object(event.get("data")).get("workflow_id"),
            message_id=message_id,
            conversation_id=event.get("conversation_id"),
        )
        return [self.attached]

    def _act(self, event: dict[str, Any], text: str, *, damaged: bool) -> list[RunEvent]:
        match event.get("event"):
            case "workflow_finished" | "workflow_paused":
                return self._finish(event, text, damaged=damaged)
            case "message_end":
                return self._end_message(event)
            case "message_replace":
                self._answer = [str(event.get("answer") or "")]
            case name if name in _ANSWER_EVENTS and event.get("answer"):
                self._answer.append(str(event["answer"]))
            case "node_finished":
                self._note_price(_object(_object(event.get("data")).get("execution_metadata")))
            case "error":
                return self._fail(event)
        return []

    def _finish(self, event: dict[str, Any], text: str, *, damaged: bool) -> list[RunEvent]:
        outcome = _read_run(_object(event.get("data")), member_text(text, "data", "outputs"), self.attached)
        self._outcome = replace(outcome, damaged=damaged)
        if self._mode.is_chat and self._outcome.status in (RunStatus.SUCCEEDED, RunStatus.PARTIAL):
            self._outcome = replace(self._outcome, outputs=self._chat_outputs(self._outcome.outputs))
            if self._message_end is None:
                return []
        return [Finished(self._with_usage(self._outcome))]

    def _end_message(self, event: dict[str, Any]) -> list[RunEvent]:
        self._message_end = event
        if self._mode is Mode.CHATFLOW and self._outcome is None:
            return []
        outcome = self._outcome or Outcome(RunStatus.SUCCEEDED, self._chat_outputs("{}"))
        return [Finished(self._with_usage(outcome))]

    def _chat_outputs(self, outputs: str) -> str:
        """The answer as the user would have seen it, beside whatever else the flow put out."""
        if self._answer or "answer" not in _object(read_json(outputs)):
            return json.dumps({"answer": "".join(self._answer)}, ensure_ascii=False)
        return outputs

    def _note_price(self, metadata: dict[str, Any]) -> None:
        try:
            self._prices.append(Decimal(str(metadata["total_price"])))
        except (KeyError, InvalidOperation):
            return
        self._currency = metadata.get("currency") or self._currency

    def _with_usage(self, outcome: Outcome) -> Outcome:
        usage = _object(_object(_object(self._message_end).get("metadata")).get("usage"))
        price = usage.get("total_price") or (str(sum(self._prices)) if self._prices else None)
        known = self.attached
        return replace(
            outcome,
            tokens=_first(outcome.tokens, usage.get("total_tokens")),
            seconds=_first(outcome.seconds, usage.get("latency")),
            price=price,
            currency=usage.get("currency") or self._currency,
            run_id=known.run_id if known else None,
            task_id=known.task_id if known else None,
            message_id=known.message_id if known else None,
            conversation_id=known.conversation_id if known else None,
        )

    def _fail(self, event: dict[str, Any]) -> list[RunEvent]:
        message, code = str(event.get("message") or ""), str(event.get("code") or "")
        if self.attached is not None or code == "completion_request_error":
            return [Finished(self._with_usage(Outcome(RunStatus.FAILED, error=message or code)))]
        raise DifyFailureError(_start_failure(event, code, message))


def _start_failure(event: dict[str, Any], code: str, message: str) -> Failure:
    """An error before any run. From 1.15 on the worker says 500 without a code even where the inputs were at fault."""
    status = event.get("status") if isinstance(event.get("status"), int) else None
    blamed = cause_of_text(message) in (Cause.BAD_INPUT, Cause.BAD_FILE) or "not published" in message.lower()
    if blamed:
        return Failure(FailureKind.REFUSED, code or "invalid_param", message, 400)
    if status is not None and status < 500:  # noqa: PLR2004
        return Failure(FailureKind.REFUSED, code or f"http_{status}", message, status)
    return Failure(FailureKind.ERRORED, code or "internal_server_error", message, status or 500)


def read_blocking(body: bytes, mode: Mode) -> list[RunEvent]:
    """The JSON answer of a blocking run."""
    text, damaged = _decode(body)
    answer = _object(read_json(text))
    attached = Attached(
        run_id=answer.get("workflow_run_id"),
        task_id=answer.get("task_id"),
        workflow_id=_object(answer.get("data")).get("workflow_id"),
        message_id=answer.get("message_id"),
        conversation_id=answer.get("conversation_id"),
    )
    if isinstance(answer.get("data"), dict):
        outcome = _read_run(answer["data"], member_text(text, "data", "outputs"), attached)
    elif "answer" in answer and mode is not Mode.WORKFLOW:
        outcome = _read_message(answer, attached)
    else:
        raise DifyFailureError(Failure(FailureKind.AMBIGUOUS, "reply_unreadable", text[:200], 200))
    return [attached, Finished(replace(outcome, damaged=damaged))]


def _read_message(answer: dict[str, Any], attached: Attached) -> Outcome:
    usage = _object(_object(answer.get("metadata")).get("usage"))
    return Outcome(
        RunStatus.SUCCEEDED,
        outputs=json.dumps({"answer": answer.get("answer") or ""}, ensure_ascii=False),
        tokens=usage.get("total_tokens"),
        seconds=usage.get("latency"),
        price=usage.get("total_price"),
        currency=usage.get("currency"),
        run_id=attached.run_id,
        task_id=attached.task_id,
        message_id=attached.message_id,
        conversation_id=attached.conversation_id,
    )


def read_detail(body: bytes) -> tuple[dict[str, Any], Outcome | None]:
    """`GET /workflows/run/{id}`: its fields, and the outcome where it has ended."""
    text, damaged = _decode(body)
    detail = _object(read_json(text))
    if detail.get("status") not in _STATUSES:
        return detail, None
    attached = Attached(run_id=detail.get("id"), task_id=None, workflow_id=detail.get("workflow_id"))
    return detail, replace(_read_run(detail, member_text(text, "outputs"), attached), damaged=damaged)


def _read_run(data: dict[str, Any], outputs: str | None, attached: Attached | None) -> Outcome:
    status = data.get("status")
    if status not in _STATUSES:
        # A status that no version known to us sends: never called a success.
        return Outcome(RunStatus.FAILED, outputs or "{}", error=data.get("error") or f"status {status!r}")
    return Outcome(
        RunStatus(status),
        outputs=outputs if outputs not in (None, "null") else "{}",
        error=data.get("error") or None,
        tokens=data.get("total_tokens"),
        seconds=data.get("elapsed_time"),
        run_id=attached.run_id if attached else data.get("id"),
        task_id=attached.task_id if attached else None,
        workflow_id=data.get("workflow_id"),
        conversation_id=attached.conversation_id if attached else None,
        message_id=attached.message_id if attached else None,
    )


def _decode(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), True


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
