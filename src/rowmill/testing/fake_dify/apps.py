"""The apps of the fake: those behind the recordings, and one for demonstrations."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

_SPACE = uuid.UUID("6f0d4d6e-5c1c-4a39-9c63-0d6f5f5b7a11")


@dataclass(slots=True)
class FakeApp:
    """One app. `behaviour` names what its runs do (rowmill.testing.fake_dify.behaviours)."""

    key: str
    name: str
    mode: str = "workflow"
    form: list[dict[str, Any]] = field(default_factory=list)
    behaviour: str = "echo"
    published: bool = True
    enabled: bool = True
    max_active: int = 0
    node_timeout_s: float = 10.0
    """how long its HTTP node waits"""
    description: str = ""
    app_id: str = ""
    workflow_id: str = ""
    versions: list[str] = field(default_factory=list)
    republish_after: int | None = None
    """how many runs are still started before it is published again"""

    def __post_init__(self) -> None:
        self.app_id = self.app_id or str(uuid.uuid5(_SPACE, self.key))
        self.workflow_id = self.workflow_id or str(uuid.uuid5(_SPACE, f"{self.key}/1"))
        self.versions = self.versions or [self.workflow_id]

    def republish(self) -> None:
        """A new version; old ones can still be pinned."""
        self.workflow_id = str(uuid.uuid5(_SPACE, f"{self.key}/{len(self.versions) + 1}"))
        self.versions.append(self.workflow_id)

    def next_run(self) -> str:
        """The version that is published when the next run starts."""
        if self.republish_after == 0:
            self.republish()
        self.republish_after = self.republish_after - 1 if self.republish_after else None
        return self.workflow_id

    def fields(self) -> list[tuple[str, dict[str, Any]]]:
        """(kind, definition) of each field."""
        return [next(iter(item.items())) for item in self.form]


def control(kind: str, variable: str, label: str, *, required: bool = False, **more: Any) -> dict[str, Any]:
    """One item of `user_input_form`."""
    known = {"variable": variable, "label": label, "type": kind, "required": required, "options": []}
    return {kind: {**known, "max_length": None, **more}}


_DELAY = control("number", "delay_ms", "Delay", required=True)
_MODE = control("text-input", "mode", "Mode", max_length=48)
_QUERY = control("text-input", "query", "Query", max_length=256)
_FILE_RULES: dict[str, Any] = {
    "allowed_file_types": ["image", "document"],
    "allowed_file_extensions": [],
    "allowed_file_upload_methods": ["local_file", "remote_url"],
}


def _workflows() -> list[FakeApp]:
    slow = [_DELAY, control("text-input", "query", "Query", max_length=256), _MODE]
    echo = [
        control("text-input", "query", "Query", required=True, max_length=48),
        control("paragraph", "note", "Note", max_length=2000),
        control("select", "lang", "Language", options=["en", "de", "zh"]),
        control("number", "n", "N"),
        control("checkbox", "flag", "Flag"),
        control("json_object", "obj", "Obj"),
    ]
    files = [
        control("file", "doc", "Doc", required=True, **_FILE_RULES),
        control("file-list", "docs", "Docs", **{**_FILE_RULES, "max_length": 3}),
        control("text-input", "query", "Query", max_length=256),
    ]
    retry = [
        control("text-input", "key", "Key", required=True, max_length=256),
        control("number", "fails", "Fails", required=True),
    ]
    report = [
        control("text-input", "query", "Query", required=True, max_length=256),
        control("paragraph", "name", "File name"),
        control("number", "size", "File size"),
        control("number", "pages", "Pages"),
    ]
    return [
        FakeApp("app-echo", "echo", form=echo, description="echoes its inputs"),
        FakeApp("app-slow", "slow", form=slow, behaviour="slow"),
        FakeApp("app-slow-default", "slow-default", form=slow, behaviour="slow-default"),
        FakeApp("app-slow-failbranch", "slow-failbranch", form=slow, behaviour="slow-failbranch"),
        FakeApp("app-slow-retry", "slow-retry", form=retry, behaviour="retry"),
        FakeApp("app-limited", "limited", form=slow, behaviour="slow", max_active=2),
        FakeApp("app-deadend", "succeeded-deadend", form=slow, behaviour="deadend"),
        FakeApp("app-files", "files", form=files),
        FakeApp("app-files-extract", "files-extract", form=files[:1], behaviour="extract"),
        FakeApp("app-report", "report", form=report, behaviour="report", description="puts out files"),
        FakeApp("app-unpublished", "unpublished", form=echo, published=False, description="never published"),
    ]


def _chats() -> list[FakeApp]:
    name = [control("text-input", "name", "Name", max_length=48)]
    return [
        FakeApp("app-chatflow", "chatflow", "advanced-chat", name, "answer", description="chatflow echo"),
        FakeApp("app-chatflow-slow", "chatflow-slow", "advanced-chat", [_DELAY, _MODE], "answer-slow"),
        FakeApp("app-chat", "chat", "chat", name, "answer"),
        FakeApp("app-agent", "agent", "agent-chat", name, "answer"),
        FakeApp("app-completion", "completion", "completion", [_QUERY], "answer"),
    ]


def _demo() -> FakeApp:
    form = [
        control("text-input", "product", "Product", required=True, max_length=256),
        control("paragraph", "features", "Features", max_length=2000),
        control("select", "tone", "Tone", options=["plain", "playful", "luxury"]),
        control("number", "max_chars", "Max characters"),
        control("checkbox", "emoji", "Emoji"),
    ]
    return FakeApp("app-demo", "Product titles", form=form, behaviour="titles", description="Writes product titles")


def default_apps() -> dict[str, FakeApp]:
    """Fresh apps by key."""
    return {app.key: app for app in [_demo(), *_workflows(), *_chats()]}
