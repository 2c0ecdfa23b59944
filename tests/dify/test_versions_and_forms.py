"""What a version can do; what a form asks for."""

from __future__ import annotations

from typing import Any

import pytest

from rowmill.dify.form import read_form
from rowmill.dify.versions import UNKNOWN_VERSION, read_version, recovery
from rowmill.domain.form import Field, FieldKind, Mode
from rowmill.ports.dify import Recovery


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.14.2", (1, 14, 2)),
        ("1.14", (1, 14, 0)),
        ("0.15.3-beta1", (0, 15, 3)),
        ("1.14.2+cloud", (1, 14, 2)),
        ("10.200.3000", (10, 200, 3000)),
        ("", UNKNOWN_VERSION),
        (None, UNKNOWN_VERSION),
        ("main", UNKNOWN_VERSION),
        ("1", UNKNOWN_VERSION),
    ],
)
def test_read_version(text: str | None, version: tuple[int, int, int]) -> None:
    assert read_version(text) == version


NOTHING = Recovery(by_run_id=False, by_user=False, from_start=False)
ID_ONLY = Recovery(by_run_id=True, by_user=False, from_start=False)
LATE = Recovery(by_run_id=True, by_user=True, from_start=False)
TALK = Recovery(by_run_id=False, by_user=False, from_start=False, by_message=True)
FULL = Recovery(by_run_id=True, by_user=True, from_start=True)


@pytest.mark.parametrize(
    ("version", "mode", "expected"),
    [
        (None, Mode.WORKFLOW, NOTHING),
        ("1.4.3", Mode.WORKFLOW, NOTHING),
        ("1.9.1", Mode.WORKFLOW, NOTHING),
        ("1.9.2", Mode.WORKFLOW, ID_ONLY),
        ("1.10.1", Mode.WORKFLOW, ID_ONLY),
        ("1.11.0", Mode.WORKFLOW, LATE),
        ("1.12.9", Mode.WORKFLOW, LATE),
        ("1.13.0", Mode.WORKFLOW, Recovery(True, True, True, silent_refusals=True)),
        ("1.14.2", Mode.WORKFLOW, Recovery(True, True, True, silent_refusals=True)),
        ("1.15.0", Mode.WORKFLOW, FULL),
        ("2.0.0", Mode.WORKFLOW, FULL),
        ("1.8.1", Mode.CHATFLOW, TALK),
        ("1.11.4", Mode.CHATFLOW, Recovery(True, False, False, by_message=True)),
        ("1.14.2", Mode.CHATFLOW, Recovery(True, False, False, by_message=True, silent_refusals=True)),
        ("1.15.0", Mode.CHATFLOW, Recovery(True, False, False, by_message=True)),
        ("1.17.0", Mode.CHATFLOW, Recovery(True, False, False, by_message=True)),
        (None, Mode.CHATFLOW, NOTHING),
        ("1.8.1", Mode.CHAT, TALK),
        ("1.15.0", Mode.CHAT, TALK),
        ("1.14.2", Mode.AGENT_CHAT, TALK),
        ("1.16.1", Mode.AGENT_CHAT, TALK),
        # A cut aborts the task there: what is saved then may be half an answer.
        ("1.17.0", Mode.CHAT, NOTHING),
        ("1.17.0", Mode.AGENT_CHAT, NOTHING),
        (None, Mode.CHAT, NOTHING),
        ("1.15.0", Mode.COMPLETION, NOTHING),
    ],
)
def test_recovery(version: str | None, mode: Mode, expected: Recovery) -> None:
    assert recovery(version, mode) == expected
    assert expected.is_full == (expected in (FULL, Recovery(True, True, True, silent_refusals=True)))


SPEC: dict[str, Any] = {"variable": "v", "label": "V", "required": True}


def only_field(control: str, **more: Any) -> Field:
    (field,) = read_form({"user_input_form": [{control: SPEC | more}]}, Mode.WORKFLOW).fields
    return field


@pytest.mark.parametrize("kind", list(FieldKind))
def test_every_control(kind: FieldKind) -> None:
    field = only_field(kind.value, type=kind.value, options=["a", 2])
    assert (field.variable, field.kind, field.label, field.required) == ("v", kind, "V", True)
    assert field.options == (("a", "2") if kind is FieldKind.SELECT else ())


@pytest.mark.parametrize(
    ("control", "spec", "kind"),
    [
        ("external_data_tool", {"type": "api"}, None),
        ("external_data_tool", {"type": "api", "required": True}, None),
        ("hologram", {"type": "hologram"}, None),
        ("hologram", {}, None),
        ("hologram", {"type": "hologram", "required": True}, FieldKind.TEXT),
        ("hologram", {"type": "number"}, FieldKind.NUMBER),
        ("hologram", {"type": "number", "required": True}, FieldKind.NUMBER),
        ("text-input", {"type": "number"}, FieldKind.TEXT),
        ("text-input", {"variable": ""}, None),
        ("text-input", {"variable": None}, None),
    ],
)
def test_kinds(control: str, spec: dict[str, Any], kind: FieldKind | None) -> None:
    fields = read_form({"user_input_form": [{control: {"variable": "v"} | spec}]}, Mode.WORKFLOW).fields
    assert [f.kind for f in fields] == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(48, 48), ("48", 48), (48.0, 48), (0, None), (None, None), ("", None), ("many", None), (-1, None), ([], None)]
    + [(float(text), None) for text in ("inf", "nan")],
)
def test_max_length(given: Any, expected: int | None) -> None:
    assert only_field("text-input", max_length=given).max_length == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ('{"type": "object"}', '{"type": "object"}'), ({"type": "object"}, '{"type": "object"}'), ("", "")],
)
def test_json_schema(given: Any, expected: str | None) -> None:
    assert only_field("json_object", json_schema=given).json_schema == expected


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ({"hint": "h", "description": "d", "placeholder": "p"}, "h"),
        ({"hint": "", "description": "d", "placeholder": "p"}, "d"),
        ({"placeholder": "p"}, "p"),
        ({}, ""),
    ],
)
def test_hint(spec: dict[str, Any], hint: str) -> None:
    assert only_field("text-input", **spec).hint == hint


def test_a_file_field_in_full() -> None:
    field = only_field(
        "file-list",
        max_length=5,
        required=False,
        hide=True,
        label=None,
        default=[],
        allowed_file_types=["image", "custom"],
        allowed_file_extensions=[".psd"],
        allowed_file_upload_methods=["local_file"],
    )
    assert field == Field(
        variable="v",
        kind=FieldKind.FILE_LIST,
        max_length=5,
        default=[],
        hidden=True,
        file_types=("image", "custom"),
        file_extensions=(".psd",),
        upload_methods=("local_file",),
    )
    assert only_field("file", allowed_file_types=None, allowed_file_extensions="x").file_types == ()


@pytest.mark.parametrize("form", [None, [], ["text"], [None], [{"text-input": "x"}], [{"text-input": None}], [{}]])
def test_no_fields(form: Any) -> None:
    assert read_form({"user_input_form": form}, Mode.WORKFLOW).fields == ()
    assert read_form({}, Mode.COMPLETION).fields == ()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_chat_asks_for_its_question_first(mode: Mode) -> None:
    form = read_form({"user_input_form": [{"number": {"variable": "n"}}, {"select": {"variable": "s"}}]}, mode)
    around = (["sys.query"], ["sys.conversation"]) if mode.is_chat else ([], [])
    assert [f.variable for f in form.fields] == [*around[0], "n", "s", *around[1]]
    assert not any(f.required for f in form.fields if f.variable == "sys.conversation")
    assert all(f.required for f in form.fields if f.variable == "sys.query")
    assert form.fields[-1].default is None
