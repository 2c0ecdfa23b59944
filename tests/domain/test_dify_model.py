"""What we let through, Dify lets through: its validation as a small model, written from contract §4.2 alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rowmill.domain.cell import JsonCell
from rowmill.domain.form import Field, FieldKind
from rowmill.domain.problem import Severity
from rowmill.domain.values import read_cell

from .making import EVERY_CODE_POINT, SENDABLE, cells, field

MISSING = object()


def dify_accepts(spec: Field, value: Any) -> str | None:
    """Why Dify refuses a value; None if it does not. An absent optional value becomes the default, and is checked."""
    if value is MISSING or value is None:
        if spec.required:
            return "is required in input form"
        if spec.default is None:
            return None
        value = spec.default
    return RULES[spec.kind.value](spec, value)


def text_rule(spec, value):
    if not isinstance(value, str):
        return "must be a string"
    return "must be less than" if spec.max_length and len(value) > spec.max_length else None


def select_rule(spec, value):
    if not isinstance(value, str):
        return "must be a string"
    return None if value in spec.options else "must be one of the following"


def number_rule(spec, value):
    del spec
    if isinstance(value, list | dict):
        return "error 500"
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        float(value) if "." in value else int(value)
    except ValueError:
        return "must be a valid number"
    return None


def checkbox_rule(spec, value):
    """The rule of 1.8 to 1.10.0, which every later version keeps too."""
    del spec
    return None if isinstance(value, bool) else "must be a valid boolean value"


def object_rule(spec, value):
    del spec
    return None if isinstance(value, dict) else "must be a dict"


def file_object_rule(spec, value):
    if not isinstance(value, dict) or value.get("transfer_method") != "remote_url":
        return "must be a file"
    if not str(value.get("url")).startswith("http"):
        return "Invalid file url"
    if spec.upload_methods and "remote_url" not in spec.upload_methods:
        return "File validation failed"
    if spec.file_types and value.get("type") not in spec.file_types:
        return "File validation failed"
    return None


def file_rule(spec, value):
    return file_object_rule(spec, value)


def file_list_rule(spec, value):
    if not isinstance(value, list):
        return "must be a list of files"
    if spec.max_length and len(value) > spec.max_length:
        return "must be less than N files"
    return next((refusal for item in value if (refusal := file_object_rule(spec, item))), None)


RULES = {
    "text-input": text_rule,
    "paragraph": text_rule,
    "select": select_rule,
    "number": number_rule,
    "checkbox": checkbox_rule,
    "json_object": object_rule,
    "file": file_rule,
    "file-list": file_list_rule,
}


REFUSED = {
    "missing": (field("text-input", required=True), MISSING),
    "number for a text": (field("text-input"), 5),
    "too long": (field("paragraph", max_length=1), "ab"),
    "no option": (field("select", options=("a",)), "b"),
    "default is no option": (field("select", options=("a",), default=""), MISSING),
    "thousands": (field("number"), "1,000"),
    "list for a number": (field("number"), [1]),
    "word in a checkbox": (field("checkbox"), "maybe"),
    "list for an object": (field("json_object"), []),
    "link for a file": (field("file"), "https://a.com/x.pdf"),
    "one file for a list": (field("file-list"), {"transfer_method": "remote_url", "url": "https://a.com/x.pdf"}),
    "too many files": (field("file-list", max_length=1), [{}, {}]),
}


@pytest.mark.parametrize(("spec", "value"), REFUSED.values(), ids=REFUSED)
def test_the_model_refuses(spec, value):
    assert dify_accepts(spec, value) is not None


def sendable(value: Any) -> bool:
    """No half character, NaN or infinity at any depth, no NUL in a text, no number that JSON's readers would round."""
    match value:
        case str():
            return all(not 0xD800 <= ord(char) <= 0xDFFF for char in value)
        case float():
            return value - value == 0
        case list():
            return all(map(sendable, value))
        case dict():
            return all(sendable(key) and sendable(inner) for key, inner in value.items())
        case _:
            return True


OPTIONS = st.lists(SENDABLE | st.sampled_from(["a", "B", " c", "1", "TRUE"]), max_size=4).map(tuple)
TYPES = st.lists(st.sampled_from(["image", "document", "audio", "video", "custom"]), max_size=3, unique=True).map(tuple)
LINKS = st.builds(
    "{}://{}/{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "Https", "ftp"]),
    st.sampled_from(["a.com", "b.org:8080", ""]),
    st.sampled_from(["x", "bild", "名", "a b"]),
    st.sampled_from(["", ".pdf", ".PNG", ".mp3", ".mp4", ".exe", ".zip", ".pdf?x=1.png"]),
)


@st.composite
def fields(draw) -> Field:
    kind = draw(st.sampled_from(FieldKind))
    options = draw(OPTIONS) if kind is FieldKind.SELECT else ()
    return field(
        kind,
        required=draw(st.booleans()),
        max_length=draw(st.sampled_from([None, 0, 1, 2, 5])),
        options=options,
        default=draw(st.none() | st.just("") | st.sampled_from(options or ("x",)))
        if kind is FieldKind.SELECT and options
        else None,
        file_types=draw(TYPES),
        file_extensions=draw(st.sampled_from([(), (".zip",), ("EXE", "zip")])),
        upload_methods=draw(st.sampled_from([(), ("local_file",), ("remote_url",), ("local_file", "remote_url")])),
    )


TEMPTING = (
    st.sampled_from(
        ["a", "b", " c ", "1", "TRUE", "是", "1e3", "1.5", ".", "１２", "{}", '{"a": 1}', "[]", '{"a": NaN}']
    )
    | LINKS
    | st.lists(LINKS, max_size=3).map("\n".join)
    | st.lists(LINKS | EVERY_CODE_POINT, max_size=3).map(JsonCell)
    | st.builds(lambda link: JsonCell({"url": link}), LINKS)
    | st.integers(10**14, 10**19)
)


@settings(max_examples=600)
@given(fields(), cells | TEMPTING)
@example(field("text-input", required=True), "\0")
@example(field("select", options=("a",), default="b"), None)
@example(field("file"), "HTTPS://a.com/x.pdf")
@example(field("json_object"), '{"a": 1e999}')
@example(field("file-list", required=True), JsonCell([" https://a.com/x.pdf"]))
def test_what_has_no_error_is_accepted(spec, cell):
    reading = read_cell(spec, cell)
    if any(f.severity is Severity.ERROR for f in reading.findings):
        return
    value = MISSING if reading.absent else reading.value
    assert dify_accepts(spec, value) is None
    assert value is MISSING or sendable(value)


@given(fields(), cells | TEMPTING)
def test_absent_without_an_error_only_for_nothing(spec, cell):
    reading = read_cell(spec, cell)
    if reading.absent and not reading.findings:
        assert not spec.required
        assert reading.value is None
        assert cell is None or not str(cell).replace("\0", "").strip()


@given(fields().filter(lambda spec: spec.required and spec.kind.is_text), cells)
def test_required_text_is_never_sent_empty(spec, cell):
    reading = read_cell(spec, cell)
    assert reading.findings or reading.value.strip()
