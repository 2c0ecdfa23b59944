"""Dify's stream events and blocking answers -> what the engine acts on. No I/O (contract §3, §6.4)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rowmill.dify.asks import read_asks
from rowmill.dify.raw import clean_text, member_text, read_json
from rowmill.domain.batch import Outcome, RunStatus
from rowmill.domain.causes import Cause, cause_of_text
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.money import read_price, show_price, total
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.dify import Attached, Finished, RunEvent

if TYPE_CHECKING:
    from decimal import Decimal

_STATUSES = {status.value for status in RunStatus}
# What is told of a run that goes on, whatever brought it: its end is to be looked for.
_GOES_ON = ("scheduled", "running")
_ANSWER_EVENTS = ("message", "agent_message", "message_file")
# An iteration or loop tells the price of its inner nodes once more, as its own: theirs alone are added up. (Dify sends
# `*_completed` for such a node; some versions send `node_finished` as well.)
_CONTAINERS = ("iteration", "loop")
# Dify stopped listening to its own run, which may go on.
_LEFT_ALONE = "queue listening stopped"


class RunReader:
    """Reads the events of one run. `user` is the one that started it: events of another run are told by it."""

    def __init__(self, mode: Mode, user: str) -> None:
        self._mode = mode
        self._user = user
        self._foreign: set[str] = set()
        self._answer: list[str] = []
        self._message_end: dict[str, Any] | None = None
        self._outcome: Outcome | None = None
        self._prices: dict[str, Decimal] = {}
        self._currencies: set[str] = set()
        self._asks: list[dict[str, Any]] = []
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
        named = event.get("workflow_run_id")
        if named is None or (self.attached is not None and named == self.attached.run_id):
            return False
        run_id = clean_text(named)
        if run_id is None:
            return False
        if self.attached is not None and self.attached.run_id is not None:
            return run_id != self.attached.run_id
        inputs = _object(_object(event.get("data")).get("inputs"))
        if event.get("event") == "workflow_started" and inputs.get("sys.user_id", self._user) != self._user:
            self._foreign.add(run_id)
        return run_id in self._foreign

    def _note_ids(self, event: dict[str, Any]) -> list[RunEvent]:
        known = self.attached
        if known is not None and known.run_id:
            return []
        new = _ids(event)
        if not (new.run_id or new.message_id) or (known is not None and not new.run_id):
            return []
        if known is not None:
            new = replace(
                new,
                task_id=new.task_id or known.task_id,
                message_id=new.message_id or known.message_id,
                conversation_id=new.conversation_id or known.conversation_id,
            )
        self.attached = new
        return [new]

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
                self._note_price(_object(event.get("data")))
            case "human_input_required":
                self._asks.append({"TYPE": event["event"], **_object(event.get("data"))})
            case "error":
                return self._fail(event)
        return []

    def _finish(self, event: dict[str, Any], text: str, *, damaged: bool) -> list[RunEvent]:
        if _object(event.get("data")).get("status") in _GOES_ON:
            return []
        outcome = _read_run(_object(event.get("data")), member_text(text, "data", "outputs"), self.attached)
        if outcome.status is RunStatus.PAUSED and outcome.asks is None:
            outcome = replace(outcome, asks=read_asks(None, self._asks))
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
            return answer_json("".join(self._answer))
        return outputs

    def _note_price(self, node: dict[str, Any]) -> None:
        """Of each execution of a node once: its event can come twice."""
        metadata = _object(node.get("execution_metadata"))
        price = read_price(metadata.get("total_price"))
        if price is None or node.get("node_type") in _CONTAINERS:
            return
        self._prices[clean_text(node.get("id")) or f"unnamed {len(self._prices)}"] = price
        self._currencies |= {clean_text(metadata.get("currency")) or ""} - {""}

    def _price_of_nodes(self) -> tuple[str | None, str | None]:
        """No price where the nodes were paid for in different currencies: such a sum would mean nothing."""
        if not self._prices or len(self._currencies) > 1:
            return None, None
        return show_price(total(self._prices.values())), next(iter(self._currencies), None)

    def _with_usage(self, outcome: Outcome) -> Outcome:
        usage = _usage(_object(self._message_end))
        # A chatflow's usage is the sum over its nodes: one of the two, never both.
        price, currency = _price(usage), clean_text(usage.get("currency"))
        if price is None:
            price, currency = self._price_of_nodes()
        known = self.attached
        return replace(
            outcome,
            tokens=_first(outcome.tokens, _number(usage.get("total_tokens"))),
            seconds=_first(outcome.seconds, _number(usage.get("latency"))),
            price=price,
            currency=currency,
            run_id=(known.run_id if known else None) or outcome.run_id,
            task_id=known.task_id if known else None,
            message_id=known.message_id if known else None,
            conversation_id=known.conversation_id if known else None,
        )

    def _fail(self, event: dict[str, Any]) -> list[RunEvent]:
        if self._outcome is not None:
            return self.end()  # the run's own end has been told; what broke afterwards does not undo it
        message, code = clean_text(event.get("message")) or "", clean_text(event.get("code")) or ""
        if self.attached is not None and _LEFT_ALONE in message.lower():
            raise DifyFailureError(Failure(FailureKind.CUT, "stream_ended", message))
        if self.attached is not None or code == "completion_request_error":
            failed = Outcome(RunStatus.FAILED, error=message or code, code=code or None)
            return [Finished(self._with_usage(failed))]
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
    """The JSON answer of a blocking run. No end is told where the run goes on."""
    text, damaged = _decode(body)
    answer = _read_object(text)
    attached = _ids(answer)
    if isinstance(answer.get("data"), dict):
        if answer["data"].get("status") in _GOES_ON:
            return [attached]
        outcome = _read_run(answer["data"], member_text(text, "data", "outputs"), attached)
    elif "answer" in answer and mode is not Mode.WORKFLOW:
        outcome = _read_message(answer, attached)
    else:
        raise DifyFailureError(_unreadable(text))
    return [attached, Finished(replace(outcome, damaged=damaged))]


def _read_message(answer: dict[str, Any], attached: Attached) -> Outcome:
    usage = _usage(answer)
    return Outcome(
        RunStatus.SUCCEEDED,
        outputs=answer_json(answer.get("answer") or ""),
        tokens=_number(usage.get("total_tokens")),
        seconds=_number(usage.get("latency")),
        price=_price(usage),
        currency=clean_text(usage.get("currency")),
        run_id=attached.run_id,
        task_id=attached.task_id,
        message_id=attached.message_id,
        conversation_id=attached.conversation_id,
    )


def read_detail(body: bytes) -> tuple[dict[str, Any], Outcome | None]:
    """`GET /workflows/run/{id}`: its fields, and the outcome where it has ended."""
    text, damaged = _decode(body)
    detail = _read_object(text)
    if not _is_end(detail.get("status")):
        return detail, None
    outputs = _json_text(detail.get("outputs")) or member_text(text, "outputs")
    return detail, replace(_read_run(detail, outputs, None), damaged=damaged)


def _json_text(value: Any) -> str | None:
    """1.11 shows a run's outputs as JSON text within the JSON, as all versions show its inputs."""
    try:
        return value if isinstance(value, str) and isinstance(read_json(value), dict) else None
    except ValueError:
        return None


def _read_run(data: dict[str, Any], outputs: str | None, attached: Attached | None) -> Outcome:
    status = data.get("status")
    known = _is_end(status)
    return Outcome(
        # A status that no version known to us sends is never called a success.
        RunStatus(str(status)) if known else RunStatus.FAILED,
        outputs="{}" if outputs is None or outputs == "null" else outputs,
        error=clean_text(data.get("error")) or (None if known else f"status {status!r}"),
        tokens=_number(data.get("total_tokens")),
        seconds=_number(data.get("elapsed_time")),
        run_id=(attached.run_id if attached else None) or clean_text(data.get("id")),
        task_id=attached.task_id if attached else None,
        workflow_id=clean_text(data.get("workflow_id")),
        asks=read_asks(data.get("reasons")) if status == RunStatus.PAUSED else None,
        conversation_id=attached.conversation_id if attached else None,
        message_id=attached.message_id if attached else None,
    )


def _ids(event: dict[str, Any]) -> Attached:
    return Attached(
        run_id=clean_text(event.get("workflow_run_id")),
        task_id=clean_text(event.get("task_id")),
        workflow_id=clean_text(_object(event.get("data")).get("workflow_id")),
        message_id=clean_text(event.get("message_id")),
        conversation_id=clean_text(event.get("conversation_id")),
    )


def _usage(message: dict[str, Any]) -> dict[str, Any]:
    return _object(_object(message.get("metadata")).get("usage"))


def _price(usage: dict[str, Any]) -> str | None:
    price = read_price(usage.get("total_price"))
    return None if price is None else show_price(price)


def _is_end(status: Any) -> bool:
    return isinstance(status, str) and status in _STATUSES


def _number(value: Any) -> Any:
    """A number that a database can hold, or None."""
    return value if isinstance(value, int | float) and abs(value) < 2**63 else None


def answer_json(answer: Any) -> str:
    """As readable as can be: half a surrogate pair cannot be stored unescaped."""
    outputs = json.dumps({"answer": answer}, ensure_ascii=False)
    try:
        outputs.encode()
    except UnicodeEncodeError:
        return json.dumps({"answer": answer})
    return outputs


def _read_object(text: str) -> dict[str, Any]:
    try:
        return _object(read_json(text))
    except ValueError:
        raise DifyFailureError(_unreadable(text)) from None


def _unreadable(text: str) -> Failure:
    return Failure(FailureKind.AMBIGUOUS, "reply_unreadable", text[:200], 200)


def _decode(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), True


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
