from __future__ import annotations

import datetime as dt
import json
import math

import pytest
from hypothesis import given

from rowmill.domain.cell import CellError, JsonCell, as_text, from_json, is_empty, to_json

from .making import cells

SHANGHAI = dt.timezone(dt.timedelta(hours=8))

TEXTS = {
    "nothing": (None, ""),
    "text as it is": ("  a\tb ", "  a\tb "),
    "leading zeros": ("007", "007"),
    "half a character": ("\ud83d", "\ud83d"),
    "true": (True, "TRUE"),
    "false": (False, "FALSE"),
    "zero": (0, "0"),
    "negative": (-3, "-3"),
    "beyond 64 bits": (2**70, "1180591620717411303424"),
    "whole float": (3.0, "3"),
    "minus zero": (-0.0, "0"),
    "fraction": (0.1, "0.1"),
    "last exact whole float": (999_999_999_999_999.0, "999999999999999"),
    "first inexact whole float": (1e15, "1000000000000000.0"),
    "large float": (1e21, "1e+21"),
    "nan": (math.nan, "nan"),
    "infinite": (-math.inf, "-inf"),
    "date": (dt.date(2024, 2, 29), "2024-02-29"),
    "date as Excel has it": (dt.datetime(2024, 2, 29), "2024-02-29"),
    "moment": (dt.datetime(2024, 2, 29, 13, 5), "2024-02-29T13:05:00"),
    "moment with parts of a second": (dt.datetime(2024, 1, 1, 0, 0, 0, 500_000), "2024-01-01T00:00:00.500000"),
    "moment with a zone": (dt.datetime(2024, 1, 1, 9, tzinfo=SHANGHAI), "2024-01-01T09:00:00+08:00"),
    "time": (dt.time(8, 30), "08:30:00"),
    "midnight": (dt.time(), "00:00:00"),
    "span": (dt.timedelta(hours=1, minutes=2, seconds=3), "1:02:03"),
    "span of days": (dt.timedelta(days=2, seconds=1), "48:00:01"),
    "no span": (dt.timedelta(), "0:00:00"),
    "span backwards": (-dt.timedelta(seconds=90), "-0:01:30"),
    "long span backwards": (-dt.timedelta(days=1, hours=1), "-25:00:00"),
    "a little backwards": (-dt.timedelta(microseconds=1), "0:00:00"),
    "error": (CellError("#DIV/0!"), "#DIV/0!"),
    "object": (JsonCell({"名": [1, None]}), '{"名": [1, null]}'),
    "list": (JsonCell([]), "[]"),
}


@pytest.mark.parametrize(("cell", "text"), TEXTS.values(), ids=TEXTS)
def test_text(cell, text):
    assert as_text(cell) == text


@pytest.mark.parametrize("cell", [None, "", " ", "\t\r\n", "\u3000", "\u00a0"], ids=repr)
def test_empty(cell):
    assert is_empty(cell)


# "NA", "None" and "null" are texts like any other [users.md §3, defect 11].
@pytest.mark.parametrize(
    "cell",
    ["x", "NA", "N/A", "None", "null", "\0", 0, 0.0, False, dt.time(), dt.timedelta(), CellError("#N/A"), JsonCell([])],
    ids=repr,
)
def test_not_empty(cell):
    assert not is_empty(cell)


SPELLINGS = {
    "plain": (5, 5),
    "datetime is not taken for a date": (dt.datetime(2024, 1, 2), {"$datetime": "2024-01-02T00:00:00"}),
    "date": (dt.date(2024, 1, 2), {"$date": "2024-01-02"}),
    "time": (dt.time(1, 2), {"$time": "01:02:00"}),
    "span": (dt.timedelta(minutes=1), {"$seconds": 60.0}),
    "error": (CellError("#N/A"), {"$error": "#N/A"}),
    "object that looks like a date": (JsonCell({"$date": "x"}), {"$json": {"$date": "x"}}),
}


@pytest.mark.parametrize(("cell", "value"), SPELLINGS.values(), ids=SPELLINGS)
def test_spelling_in_json(cell, value):
    assert to_json(cell) == value
    assert from_json(value) == cell


@given(cells)
def test_json_gives_the_same_cell_back(cell):
    again = from_json(json.loads(json.dumps(to_json(cell))))
    assert type(again) is type(cell)
    # NaN is the one cell that is not even equal to itself.
    assert again == cell or repr(again) == repr(cell) == "nan"


@given(cells)
def test_every_cell_has_a_text(cell):
    assert isinstance(as_text(cell), str)
