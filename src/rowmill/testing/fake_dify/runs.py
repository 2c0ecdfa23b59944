"""Runs, and the ledger of what was started and must be paid for."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import orjson

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.testing.fake_dify.apps import FakeApp
    from rowmill.testing.fake_dify.behaviours import Doing
    from rowmill.testing.fake_dify.profiles import Profile

MOST_RUNS = 200_000
CHATS = ("advanced-chat", "chat", "agent-chat")


@dataclass(slots=True)
class LedgerRun:
    """One started, and billed, run. `inputs` as they were sent."""

    app_key: str
    user: str
    run_id: str
    task_id: str
    inputs: dict[str, Any]
    response_mode: str
    started_at: float
    status: str = "running"
    tokens: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)
    query: str = ""
    conversation_id: str | None = None
    """only of chat apps"""
    workflow_id: str = ""


@dataclass(frozen=True, slots=True)
class LedgerUpload:
    """One file that was taken. It costs nothing, but should be sent only once."""

    app_key: str
    user: str
    file_id: str
    name: str
    size: int
    sha256: str
    uploaded_at: float


class Ledger:
    """All runs that were started, in order; as JSON lines too, for other processes. And all uploads."""

    def __init__(self, path: Path | None = None) -> None:
        self.runs: list[LedgerRun] = []
        self.most_at_once = 0
        self._under_way = 0
        self.uploads: list[LedgerUpload] = []
        self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1) if path else None

    def started(self, run: LedgerRun) -> None:
        if len(self.runs) < MOST_RUNS:
            self.runs.append(run)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        self._write("started", run)

    def finished(self, run: LedgerRun) -> None:
        self._under_way -= 1
        self._write("finished", run)

    def _write(self, event: str, run: LedgerRun) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps({"event": event, **asdict(run)}, default=str).decode() + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class Run:
    """One execution on the fake's side."""

    app: FakeApp
    user: str
    inputs: dict[str, Any]
    query: str
    doing: Doing
    streaming: bool
    sent: dict[str, Any]
    profile: Profile
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    conversation_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    workflow_id: str = ""
    turn: int = 1
    """how many messages its conversation has"""
    status: str = "running"
    error: str | None = None
    began: float = 0.0
    ended: float | None = None
    shown_from: float = 0.0
    in_log: bool = False
    saved: bool = True
    """whether its message holds the answer: what consumes a chat's stream saves it, when it is whole"""
    stop_asked: bool = False
    entry: LedgerRun | None = None

    def begin(self, ledger: Ledger) -> None:
        """From here on it costs money."""
        self.began = time.time()
        self.workflow_id = self.workflow_id or self.app.workflow_id
        mode = "streaming" if self.streaming else "blocking"
        self.entry = LedgerRun(
            self.app.key, self.user, self.run_id, self.task_id, self.sent, mode, self.began, query=self.query,
            conversation_id=self.conversation_id if self.app.mode in CHATS else None, workflow_id=self.workflow_id,
        )  # fmt: skip
        ledger.started(self.entry)

    def end(self, ledger: Ledger, status: str, error: str | None) -> None:
        self.ended, self.status, self.error = time.time(), status, error
        if self.entry is not None:
            self.entry.status, self.entry.tokens, self.entry.outputs = status, self.doing.tokens, self.outputs
            ledger.finished(self.entry)

    @property
    def outputs(self) -> dict[str, Any]:
        return self.doing.outputs if self.status not in ("running", "paused") else {}

    @property
    def seconds(self) -> float:
        return round((self.ended or time.time()) - self.began, 6)
