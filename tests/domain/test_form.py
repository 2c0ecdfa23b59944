from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowmill.domain.form import Field, FieldKind, FileSizes, Form, Mode, form_from_json, form_to_json

from .making import EVERY_CODE_POINT, field, form, json_values

texts = st.lists(EVERY_CODE_POINT, max_size=3).map(tuple)
any_field = st.builds(
    Field,
    variable=EVERY_CODE_POINT,
    kind=st.sampled_from(FieldKind),
    label=EVERY_CODE_POINT,
    required=st.booleans(),
    max_length=st.none() | st.integers(),
    options=texts,
    default=json_values,
    hidden=st.booleans(),
    hint=EVERY_CODE_POINT,
    file_types=texts,
    file_extensions=texts,
    upload_methods=texts,
    json_schema=st.none() | EVERY_CODE_POINT,
    sizes=st.none() | st.builds(FileSizes, st.none() | st.integers(), other=st.integers()),
)


@given(st.lists(any_field, max_size=4).map(lambda some: Form(tuple(some))))
def test_json_gives_the_same_form_back(some):
    again = form_from_json(json.loads(json.dumps(form_to_json(some))))
    assert again == some
    assert again.digest == some.digest


PLAIN = field(variable="x")
CHANGES = {
    "variable": "y",
    "kind": FieldKind.PARAGRAPH,
    "label": "X",
    "required": True,
    "max_length": 48,
    "options": ("a",),
    "default": "",
    "hidden": True,
    "hint": "h",
    "file_types": ("image",),
    "file_extensions": (".pdf",),
    "upload_methods": ("local_file",),
    "json_schema": "{}",
}
# What the server says and the app's author does not.
NOT_WRITTEN = {"sizes"}


def test_every_part_of_a_field_is_tried():
    assert set(CHANGES) | NOT_WRITTEN == {f.name for f in fields(Field)}


@pytest.mark.parametrize("part", CHANGES)
def test_digest_changes_with(part):
    assert form(replace(PLAIN, **{part: CHANGES[part]})).digest != form(PLAIN).digest


def test_digest_stays_when_the_server_changes_its_limits():
    assert form(replace(PLAIN, sizes=FileSizes(image=10))).digest == form(PLAIN).digest


def test_forms_that_were_kept_before_limits_were():
    kept = form_to_json(form(PLAIN))
    del kept[0]["sizes"]
    assert form_from_json(kept) == form(PLAIN)


def test_digest_changes_with_order_and_number():
    other = field(variable="y")
    digests = {form(*some).digest for some in [(), (PLAIN,), (PLAIN, other), (other, PLAIN)]}
    assert len(digests) == 4


def test_digest_is_the_same_in_every_process():
    assert form(PLAIN).digest == "f32fb40886e49cbb"
    assert form(field(variable="\ud83d")).digest != form(PLAIN).digest


def test_field_by_variable():
    some = form(PLAIN, field(variable="y", label="x"))
    assert (some.field("x"), some.field("X")) == (PLAIN, None)


def test_title():
    assert (field(variable="x", label="Name").title, field(variable="x").title) == ("Name", "x")


CHATS = {Mode.WORKFLOW: False, Mode.COMPLETION: False, Mode.CHAT: True, Mode.AGENT_CHAT: True, Mode.CHATFLOW: True}


@pytest.mark.parametrize("mode", Mode)
def test_chats(mode):
    assert mode.is_chat is CHATS[mode]


KIND_SORTS = {FieldKind.TEXT: "text", FieldKind.PARAGRAPH: "text", FieldKind.FILE: "file", FieldKind.FILE_LIST: "file"}


@pytest.mark.parametrize("kind", FieldKind)
def test_sorts_of_kinds(kind):
    sort = KIND_SORTS.get(kind)
    assert (kind.is_text, kind.is_file) == (sort == "text", sort == "file")
