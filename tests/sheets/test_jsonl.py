from __future__ import annotations

import datetime as dt

import pytest

from rowmill.domain.cell import JsonCell
from rowmill.sheets.limits import Limits

from .conftest import read, refusal


def test_keys_in_the_order_of_first_sight(file):
    head, rows = read(file("a.jsonl", b'{"b": 1}\n{"a": "x", "b": null}\n\n{"c": true}\n\n\n'))
    assert head.headers == ("b", "a", "c")
    assert [(row.number, row.cells) for row in rows] == [
        (2, (1, None, None)),
        (3, (None, "x", None)),
        (4, (None, None, None)),
        (5, (None, None, True)),
    ]


def test_values_as_they_are(file):
    big = 123456789012345678901234567890
    line = b'{"i": 3, "f": 3.0, "big": %d, "neg": -%d, "o": {"a": [1]}, "l": [], "t": "007"}\n' % (big, big)
    _, rows = read(file("a.ndjson", line))
    assert rows[0].cells == (3, 3.0, big, -big, JsonCell({"a": [1]}), JsonCell([]), "007")
    assert type(rows[0].cells[1]) is float


def test_a_date_is_text(file):
    day = dt.date(2024, 1, 2).isoformat()
    assert read(file("a.jsonl", f'{{"d": "{day}"}}'.encode()))[1][0].cells == (day,)


def test_chinese_and_the_byte_order_mark(file):
    head, rows = read(file("a.jsonl", '\ufeff{"名": "中文😀"}\r\n'.encode()))
    assert (head.headers, rows[0].cells) == (("名",), ("中文😀",))


@pytest.mark.parametrize(
    "bad",
    [
        b"{", b"[1]", b"3", b"null", b'{"a": NaN}', b'{"a": 1234567890123456789012, "b": NaN}', b"\xff\xfe",
        b'{"a": "\xe9"}',
        b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1} {"a": 2}', b"a,b",
    ],
)  # fmt: skip
def test_a_bad_line_is_named(file, bad):
    code, params = refusal(file("a.jsonl", b'{"a": 1}\n\n' + bad + b"\n"))
    assert (code, params["line"]) == ("jsonl_bad_line", 3)
    assert 0 < len(params["detail"]) <= 200


def test_nothing_in_it(file):
    assert refusal(file("a.jsonl", b"\n\n")) == ("sheet_empty", {})
    assert refusal(file("a.jsonl", b"{}\n")) == ("sheet_empty", {})
    assert refusal(file("a.jsonl", b'{"a": null}\n{"a": ""}')) == ("sheet_no_rows", {})


def test_limits(file):
    path = file("a.jsonl", b'{"a": 1}\n{"b": "xxxxxxxxxxx"}\n')
    found = refusal(path, limits=Limits(text_cell_chars=10))
    assert found == ("cell_too_long", {"row": 3, "column": 2, "limit": 10})
    found = refusal(path, limits=Limits(text_cell_chars=1))
    assert found == ("jsonl_line_too_long", {"line": 2, "limit": 16})
    assert refusal(path, limits=Limits(max_rows=2)) == ("sheet_too_many_rows", {"found": 3, "limit": 2})
    assert refusal(path, limits=Limits(max_columns=1)) == ("sheet_too_many_columns", {"found": 2, "limit": 1})
