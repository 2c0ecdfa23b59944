"""The inputs that an app asks for. How a cell becomes a field's value is in rowmill.domain.values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

# The question of a chat, chatflow or agent app. Not one of Dify's `inputs`: it travels beside them.
QUERY = "sys.query"
# Which conversation of the sheet a row is a turn of. Ours, not Dify's: it is never sent.
CONVERSATION = "sys.conversation"
SIDE_FIELDS = frozenset({QUERY, CONVERSATION})


class Mode(StrEnum):
    """Dify's `mode` of an app."""

    WORKFLOW = "workflow"
    CHATFLOW = "advanced-chat"
    CHAT = "chat"
    AGENT_CHAT = "agent-chat"
    COMPLETION = "completion"

    @property
    def is_chat(self) -> bool:
        return self in (Mode.CHATFLOW, Mode.CHAT, Mode.AGENT_CHAT)


class FieldKind(StrEnum):
    """Dify's names for the controls of `user_input_form`."""

    TEXT = "text-input"
    PARAGRAPH = "paragraph"
    SELECT = "select"
    NUMBER = "number"
    CHECKBOX = "checkbox"
    FILE = "file"
    FILE_LIST = "file-list"
    JSON = "json_object"

    @property
    def is_text(self) -> bool:
        return self in (FieldKind.TEXT, FieldKind.PARAGRAPH)

    @property
    def is_file(self) -> bool:
        return self in (FieldKind.FILE, FieldKind.FILE_LIST)


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Largest uploads that the server takes, in MB of 1024 * 1024 bytes; None = it does not say."""

    image: int | None = None
    video: int | None = None
    audio: int | None = None
    other: int | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `max_length` counts code points for text kinds and files for file-list; None = no limit."""

    variable: str
    kind: FieldKind
    label: str = ""
    required: bool = False
    max_length: int | None = None
    options: tuple[str, ...] = ()
    default: Any = None
    hidden: bool = False
    hint: str = ""
    file_types: tuple[str, ...] = ()
    file_extensions: tuple[str, ...] = ()
    upload_methods: tuple[str, ...] = ()
    json_schema: str | None = None
    sizes: FileSizes | None = None
    """of file kinds: pinned with the form, so that a batch is judged by one and the same limits"""

    @property
    def title(self) -> str:
        return self.label or self.variable


@dataclass(frozen=True, slots=True)
class Form:
    """All fields of an app in the order of its form."""

    fields: tuple[Field, ...] = ()

    def field(self, variable: str) -> Field | None:
        return next((f for f in self.fields if f.variable == variable), None)

    @property
    def digest(self) -> str:
        """16 hex digits that change whenever anything that the app's author wrote changes. Limits of the server are
        not the author's: a template is not old because an administrator has raised one."""
        written = [{key: value for key, value in item.items() if key != "sizes"} for item in form_to_json(self)]
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:16]


def form_to_json(form: Form) -> list[dict[str, Any]]:
    return [asdict(field) for field in form.fields]


def form_from_json(items: list[dict[str, Any]]) -> Form:
    """The inverse of `form_to_json`."""
    lists = ("options", "file_types", "file_extensions", "upload_methods")
    fields = []
    for item in items:
        known = {**item, "kind": FieldKind(item["kind"]), **{key: tuple(item[key]) for key in lists}}
        sizes = item.get("sizes")
        fields.append(Field(**{**known, "sizes": FileSizes(**sizes) if sizes else None}))
    return Form(tuple(fields))
