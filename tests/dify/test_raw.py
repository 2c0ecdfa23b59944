"""JSON whose text is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowmill.dify.raw import clean_text, member_text, read_json

spaces = st.text(" \t\n\r", max_size=3)
keys = st.sampled_from(["data", "outputs", "da\\u0074a", "o\\n", "", '\\"', "ü", "}", "a]b", "😀"])
scalars = st.sampled_from([
    "1.50", "-0", "0.10", "1E5", "1e400", "18446744073709551616", "-9223372036854775809", "1" * 5000, "NaN",
    "true", "false", "null", '"\\ud800"', '"\\ud83d\\ude00"', '"a\\"}]b\\\\"', '"\u2028\u0085\x7f😀"', '"{[,:"', '""',
])  # fmt: skip


def spaced(draw: st.DrawFn, *parts: str) -> str:
    return "".join(part + draw(spaces) for part in parts)


@st.composite
def values(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.sampled_from(["scalar", "array", "object"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(scalars)
    inner = draw(st.lists(st.tuples(keys, values(depth=depth - 1)), max_size=3))
    if kind == "array":
        return spaced(draw, "[", ",".join(spaced(draw, value) for _, value in inner), "]").rstrip()
    return "{" + draw(spaces) + ",".join(spaced(draw, f'"{k}"', ":", v) for k, v in inner) + "}"


members = st.lists(st.tuples(keys, values()), max_size=5)


def written(draw: st.DrawFn, inner: list[tuple[str, str]]) -> str:
    return "{" + draw(spaces) + ",".join(draw(spaces) + spaced(draw, f'"{k}"', ":", v) for k, v in inner) + "}"


def last_of(inner: list[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in reversed(inner) if json.loads(f'"{key}"') == name), None)


@settings(deadline=None)
@given(st.data(), members, members, st.sampled_from(["data", "outputs", "", '"', "}", "ü", "no such"]))
def test_member_text_is_the_source(
    data: st.DataObject, outer: list[tuple[str, str]], inner: list[tuple[str, str]], name: str
) -> None:
    nested = written(data.draw, inner)  # type: ignore[arg-type]
    place = data.draw(st.integers(0, len(outer)))
    outer = [*outer[:place], ("data", nested), *outer[place:]]
    text = data.draw(spaces) + written(data.draw, outer)  # type: ignore[arg-type]
    assert member_text(text, name) == last_of(outer, name)
    if last_of(outer, "data") == nested:
        assert member_text(text, "data", name) == last_of(inner, name)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ('{"a": 1}', (), '{"a": 1}'),
        ('{"a": 1.50}', ("a",), "1.50"),
        ('{"a": {"b": [ 1 ,2]}}', ("a", "b"), "[ 1 ,2]"),
        ('{"a": 1, "a" : 2}', ("a",), "2"),
        ("{}", ("a",), None),
        ("{ }", ("a",), None),
        ("[1]", ("a",), None),
        ('"a"', ("a",), None),
        ('{"a": [{"b": 1}]}', ("a", "b"), None),
        ('{"a": null}', ("a", "b"), None),
        ('{"b": {"a": 1}}', ("a",), None),
    ],
)
def test_member_text(text: str, path: tuple[str, ...], expected: str | None) -> None:
    assert member_text(text, *path) == expected


@pytest.mark.parametrize("deep", ['[{"]": "\\"]"},' * 500 + "1" + "]" * 500, "[" * 1020 + "]" * 1020])
def test_member_text_as_deep_as_it_can_be_read(deep: str) -> None:
    assert member_text(f'{{"a": {deep} , "b": 1}}', "a") == deep
    assert member_text(f'{{"a": {deep} , "b": 1}}', "b") == "1"
    assert list(read_json(f'{{"a": {deep}}}')) == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        ('"\\ud800"', "\ud800"),
        (b'["\\ud800", 12, 18446744073709551616]', ["\ud800", 12, 18446744073709551616]),
        ("1" * 5000, float("inf")),
        ("[1e400, -Infinity]", [float("inf"), float("-inf")]),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_read_json(text: str | bytes, expected: Any) -> None:
    assert read_json(text) == expected


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", b"\xff", '{"a": 1} x', "[" * 100_000, "[" * 2000 + "]" * 2000])
def test_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_json(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("x", "x"),
        (7, "7"),
        ({"a": 1}, "{'a': 1}"),
        ("\ufeffx", "\ufeffx"),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\x00\u2028", "\x00\u2028"),
    ],
)
def test_clean_text(value: Any, expected: str | None) -> None:
    assert clean_text(value) == expected
