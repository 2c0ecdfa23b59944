from __future__ import annotations

import datetime as dt
import json
import math

import pytest

from rowmill.domain.cell import CellError, JsonCell
from rowmill.domain.form import FieldKind
from rowmill.domain.problem import Severity
from rowmill.domain.values import read_cell

from .making import field, nested

ABSENT = object()
KINDS = list(FieldKind)
FILES = [FieldKind.FILE, FieldKind.FILE_LIST]
TEXT_KINDS = [FieldKind.TEXT, FieldKind.PARAGRAPH]
NOTHING = [None, "", "  ", "\n\t", "\u3000"]


def said(spec, cell, schema_check=None):
    """The value (or ABSENT) and the codes of what is wrong, warnings with a `~`."""
    reading = read_cell(spec, cell, schema_check)
    codes = [("~" if f.severity is Severity.WARNING else "") + f.code for f in reading.findings]
    return (ABSENT if reading.absent else reading.value), codes


def same(value, expected):
    """Equal and of the same type: True is no 1, 3 no 3.0."""
    return type(value) is type(expected) and value == expected


# ── nothing in the cell (contract §4.3) ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cell", NOTHING, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_out(kind, cell):
    assert said(field(kind), cell) == (ABSENT, [])


@pytest.mark.parametrize("cell", NOTHING, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_for_a_required_field(kind, cell):
    assert said(field(kind, required=True, default="dflt", options=("dflt",)), cell) == (ABSENT, ["required_missing"])


def test_required_missing_tells_the_kind():
    (finding,) = read_cell(field("number", required=True), None).findings
    assert finding.params == {"kind": "number"}


CHOICES = {
    "old app with an empty default": ("", ("a", "b"), ["select_needs_choice"]),
    "empty is an option": ("", ("", "a"), []),
    "no default": (None, ("a", "b"), []),
    "default is an option": ("a", ("a", "b"), []),
    "default is no option any more": ("old", ("a", "b"), ["select_needs_choice"]),
    "no options at all": ("", (), []),
}


@pytest.mark.parametrize(("default", "options", "codes"), CHOICES.values(), ids=CHOICES)
def test_no_choice(default, options, codes):
    assert said(field("select", default=default, options=options), None) == (ABSENT, codes)


def test_an_empty_default_matters_only_to_select():
    assert said(field("text-input", default="", options=("a",)), None) == (ABSENT, [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("required", [True, False])
def test_error_cell(kind, required):
    spec = field(kind, required=required, options=("#N/A",))
    assert said(spec, CellError("#N/A")) == (ABSENT, ["error_cell"])


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────────────

AS_TEXT = {
    "text": ("abc", "abc"),
    "outer spaces stay": (" a ", " a "),
    "na is text": ("NA", "NA"),
    "number": (12, "12"),
    "whole float": (7.0, "7"),
    "15 digits": (123_456_789_012_345, "123456789012345"),
    "18 digits as text": ("123456789012345678", "123456789012345678"),
    "leading zeros": ("00420", "00420"),
    "date": (dt.datetime(2024, 5, 1), "2024-05-01"),
    "bool": (True, "TRUE"),
    "time": (dt.time(8), "08:00:00"),
    "span": (dt.timedelta(hours=30), "30:00:00"),
    "object": (JsonCell({"a": 1}), '{"a": 1}'),
    "not a number": (math.nan, "nan"),
}


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize(("cell", "text"), AS_TEXT.values(), ids=AS_TEXT)
def test_text(kind, cell, text):
    assert said(field(kind, required=True), cell) == (text, [])


LENGTHS = {
    "just fits": ("a" * 48, 48, []),
    "one too long": ("a" * 49, 48, ["too_long"]),
    "emoji count once": ("😀" * 48, 48, []),
    "emoji, one too many": ("😀" * 49, 48, ["too_long"]),
    "a family of emoji is five code points": ("👨\u200d👩\u200d👧", 5, []),
    "a family of emoji in four": ("👨\u200d👩\u200d👧", 4, ["too_long"]),
    "characters of Chinese": ("汉" * 48, 48, []),
    "characters of Chinese, one too many": ("汉" * 49, 48, ["too_long"]),
    "accents apart": ("e\u0301", 1, ["too_long"]),
    "spaces count": ("a ", 1, ["too_long"]),
    "no limit": ("a" * 100_000, None, []),
    "0 is no limit": ("a" * 100, 0, []),
    "a number's digits": (1234, 3, ["too_long"]),
}


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize(("cell", "limit", "codes"), LENGTHS.values(), ids=LENGTHS)
def test_length(kind, cell, limit, codes):
    assert said(field(kind, max_length=limit), cell)[1] == codes


def test_too_long_says_both_numbers():
    (finding,) = read_cell(field(max_length=2), "汉字字").findings
    assert finding.params == {"limit": 2, "found": 3}


def test_nul_is_removed_and_told():
    assert said(field(), "a\0b") == ("ab", ["~nul_removed"])


def test_nul_does_not_count():
    assert said(field(max_length=2), "a\0b") == ("ab", ["~nul_removed"])


def test_nul_and_too_long_are_both_told():
    assert said(field(max_length=1), "a\0b") == ("ab", ["~nul_removed", "too_long"])


def test_only_nul_is_nothing():
    assert said(field(required=True), "\0 \0") == (ABSENT, ["required_missing"])
    assert said(field(), "\0") == (ABSENT, [])


@pytest.mark.parametrize("cell", ["a\ud83d", "\udc00", JsonCell(["\ud83d"])], ids=ascii)
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_half_a_character(kind, cell):
    assert said(field(kind), cell) == (ABSENT, ["broken_character"])


# ── numbers with more digits than Excel keeps ───────────────────────────────────────────────────────────────────────

DAMAGED = [10**15, -(10**15), 1e15, 123_456_789_012_345_678, 1.2345678901234568e17]


@pytest.mark.parametrize("cell", DAMAGED, ids=repr)
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in {*FILES, FieldKind.NUMBER}])
def test_long_id(kind, cell):
    assert said(field(kind, options=("1000000000000000",)), cell) == (ABSENT, ["digits_lost"])


LONG_NUMBERS = {
    "integer": (10**15, "1000000000000000"),
    "negative": (-(10**15), "-1000000000000000"),
    "float": (1e15, "1000000000000000"),
    "18 digits": (123_456_789_012_345_678, "123456789012345678"),
    "100 digits": (10**100, "1" + "0" * 100),
}


@pytest.mark.parametrize(("cell", "sent"), LONG_NUMBERS.values(), ids=LONG_NUMBERS)
def test_long_number_goes_as_text_with_a_warning(cell, sent):
    assert said(field("number"), cell) == (sent, ["~digits_lost"])


@pytest.mark.parametrize("kind", FILES)
def test_long_number_for_a_file(kind):
    assert said(field(kind), 10**15) == (ABSENT, ["file_not_url"])


# ── select ──────────────────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = ("en", "de", " zh", "1", "TRUE", "Zürich", "2024-05-01")
SELECTED = {
    "exact": ("en", "en", []),
    "spaces around": (" de\n", "de", []),
    "spaces of the option itself": (" zh", " zh", []),
    "number": (1, "1", []),
    "whole float": (1.0, "1", []),
    "bool": (True, "TRUE", []),
    "date": (dt.date(2024, 5, 1), "2024-05-01", []),
    "other case": ("EN", ABSENT, ["option_spelling"]),
    "other case beyond ascii": ("ZÜRICH ", ABSENT, ["option_spelling"]),
    "space missing": ("zh", ABSENT, ["option_spelling"]),
    "unknown": ("fr", ABSENT, ["option_unknown"]),
    "object": (JsonCell({"a": 1}), ABSENT, ["option_unknown"]),
    "half a character": ("\ud83d", ABSENT, ["option_unknown"]),
}


@pytest.mark.parametrize(("cell", "value", "codes"), SELECTED.values(), ids=SELECTED)
def test_select(cell, value, codes):
    assert said(field("select", options=OPTIONS, required=True), cell) == (value, codes)


def test_select_names_the_option_that_was_meant():
    (finding,) = read_cell(field("select", options=OPTIONS), "EN").findings
    assert finding.params == {"found": "EN", "near": "en"}


def test_select_shortens_what_it_shows():
    (finding,) = read_cell(field("select", options=("o" * 300,)), "x" * 100).findings
    assert finding.params == {"found": "x" * 59 + "…", "options": ("o" * 199 + "…",)}


def test_select_shows_short_texts_whole():
    (finding,) = read_cell(field("select", options=("o" * 200,)), "x" * 60).findings
    assert finding.params == {"found": "x" * 60, "options": ("o" * 200,)}


def test_select_shows_as_many_options_as_a_line_holds():
    (finding,) = read_cell(field("select", options=("a" * 150, "b" * 50, "c")), "x").findings
    assert finding.params == {"found": "x", "options": ("a" * 150, "b" * 50, "…")}


# ── number ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = {
    "integer": (12, 12),
    "whole float": (3.0, 3),
    "fraction": (3.5, 3.5),
    "zero": (0, 0),
    "minus zero": (-0.0, 0),
    "last exact": (10**15 - 1, 10**15 - 1),
    "text": ("12", 12),
    "spaces": (" 12 ", 12),
    "signs": ("-12", -12),
    "plus": ("+3", 3),
    "leading zeros": ("007", 7),
    "a dot makes a float": ("12.0", 12.0),
    "dot in front": (".5", 0.5),
    "dot behind": ("5.", 5.0),
    "a dot allows an exponent": ("1.5e3", 1500.0),
    "full-width digits": ("１２", 12),
    "underline as Python has it": ("1_000", 1000),
    "last safe text": (str(2**53), 2**53),
    "beyond JSON's numbers": (str(2**53 + 1), "9007199254740993"),
    "beyond them downwards": (str(-(2**53) - 1), "-9007199254740993"),
    "18 digits": ("123456789012345678", "123456789012345678"),
}


@pytest.mark.parametrize(("cell", "number"), NUMBERS.values(), ids=NUMBERS)
def test_number(cell, number):
    value, codes = said(field("number", required=True), cell)
    assert codes == []
    assert same(value, number)


NO_NUMBERS = {
    "exponent": "1e3",
    "thousands": "1,000",
    "percent": "5%",
    "dot": ".",
    "nan": "nan",
    "inf": "inf",
    "minus inf": "-Infinity",
    "too large for a float": "1.0e999",
    "full-width dot": "１．５",
    "decimal comma": "1,5",
    "words": "twelve",
    "two numbers": "1 2",
    "hexadecimal": "0x10",
    "currency": "¥5",
    "more digits than Python reads": "9" * 5000,
    "half a character": "\ud83d",
    "half a character and a dot": "\ud83d.",
    "NUL": "1\0",
    "bool, which Dify takes for 1": True,
    "nan of a formula": math.nan,
    "infinite": math.inf,
    "date": dt.date(2024, 1, 1),
    "datetime": dt.datetime(2024, 1, 1),
    "time": dt.time(1),
    "span": dt.timedelta(1),
    "object, which is Dify's error 500": JsonCell({}),
    "list": JsonCell([1]),
}


@pytest.mark.parametrize("cell", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_no_number(cell):
    assert said(field("number"), cell) == (ABSENT, ["number_wrong"])


# ── checkbox ────────────────────────────────────────────────────────────────────────────────────────────────────────

TICKED = [True, 1, 1.0, "true", "TRUE", " True ", "1", "yes", "Yes", "on", "ON", "是", "对", "真", " 是 "]
NOT_TICKED = [False, 0, 0.0, "false", "FALSE", "0", "no", "No", "off", "否", "错", "假"]
NO_TICK = [
    "maybe",
    "2",
    2,
    -1,
    0.5,
    "y",
    "t",
    "不是",
    "x",
    "✓",
    dt.date(2024, 1, 1),
    JsonCell({}),
    JsonCell([True]),
    "\0",
]


@pytest.mark.parametrize("cell", TICKED, ids=repr)
def test_ticked(cell):
    value, codes = said(field("checkbox", required=True), cell)
    assert (value is True, codes) == (True, [])


@pytest.mark.parametrize("cell", NOT_TICKED, ids=repr)
def test_not_ticked(cell):
    value, codes = said(field("checkbox", required=True), cell)
    assert (value is False, codes) == (True, [])


@pytest.mark.parametrize("cell", NO_TICK, ids=repr)
def test_no_tick(cell):
    assert said(field("checkbox"), cell) == (ABSENT, ["checkbox_wrong"])


# ── json ────────────────────────────────────────────────────────────────────────────────────────────────────────────

OBJECTS = {
    "text": ('{"a": [1, null, "汉"]}', {"a": [1, None, "汉"]}),
    "spaces around": (' {"a": 1}\n', {"a": 1}),
    "empty": ("{}", {}),
    "object of a jsonl sheet": (JsonCell({"a": {"b": 1}}), {"a": {"b": 1}}),
    "beyond 64 bits": ('{"a": 18446744073709551617}', {"a": 2**64 + 1}),
    "escaped emoji": ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
}


@pytest.mark.parametrize(("cell", "value"), OBJECTS.values(), ids=OBJECTS)
def test_object(cell, value):
    assert said(field("json_object", required=True), cell) == (value, [])


NO_OBJECTS = {
    "list": ("[1]", "json_not_object"),
    "empty list": ("[]", "json_not_object"),
    "list of a jsonl sheet": (JsonCell([]), "json_not_object"),
    "string": ('"a"', "json_not_object"),
    "number as text": ("5", "json_not_object"),
    "number": (5, "json_not_object"),
    "null": ("null", "json_not_object"),
    "true": ("true", "json_not_object"),
    "bool": (True, "json_wrong"),
    "date": (dt.date(2024, 1, 1), "json_wrong"),
    "word": ("hello", "json_wrong"),
    "single quotes": ("{'a': 1}", "json_wrong"),
    "comma at the end": ('{"a": 1,}', "json_wrong"),
    "cut": ('{"a": ', "json_wrong"),
    "two objects": ("{} {}", "json_wrong"),
    "byte order mark": ("\ufeff{}", "json_wrong"),
    "not a number": ('{"a": NaN}', "json_wrong"),
    "infinite": ('{"a": [-Infinity]}', "json_wrong"),
    "too large a number": ('{"a": 1e999}', "json_wrong"),
    "more digits than Python reads": ('{"a": ' + "9" * 5000 + "}", "json_wrong"),
    "nested without end": ('{"a":' * 100_000, "json_wrong"),
    "nested without end in a jsonl sheet": (JsonCell({"a": nested(5000)}), "json_wrong"),
    "half a character": ('{"a": "\ud83d"}', "broken_character"),
    "half a character, escaped": ('{"a": "\\ud83d"}', "broken_character"),
    "half a character in a key": (JsonCell({"\ud83d": 1}), "broken_character"),
}


@pytest.mark.parametrize(("cell", "code"), NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_no_object(cell, code):
    assert said(field("json_object"), cell) == (ABSENT, [code])


@pytest.mark.parametrize("kind", KINDS)
def test_nested_without_end_raises_nothing(kind):
    value, codes = said(field(kind), JsonCell(nested(5000)))
    assert (value, len(codes)) == (ABSENT, 1)


def only_numbers(schema, value):
    assert json.loads(schema) == {"type": "object"}
    wrong = [key for key, inner in value.items() if not isinstance(inner, int)]
    return f"{wrong[0]}: is no number" if wrong else None


def test_schema_fits():
    spec = field("json_object", json_schema='{"type": "object"}')
    assert said(spec, '{"a": 1}', only_numbers) == ({"a": 1}, [])


def test_schema_misfit():
    spec = field("json_object", json_schema='{"type": "object"}')
    reading = read_cell(spec, '{"a": "x"}', only_numbers)
    assert [(f.code, f.params) for f in reading.findings] == [("json_schema_misfit", {"detail": "a: is no number"})]
    assert reading.absent


@pytest.mark.parametrize("schema", [None, ""], ids=repr)
def test_without_a_schema_nothing_is_checked(schema):
    def never(schema, value):
        raise AssertionError(schema, value)

    assert said(field("json_object", json_schema=schema), '{"a": "x"}', never) == ({"a": "x"}, [])


def test_without_a_checker_any_object_passes():
    assert said(field("json_object", json_schema='{"type": "object"}'), '{"a": "x"}') == ({"a": "x"}, [])


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PDF = {"transfer_method": "remote_url", "url": "https://a.com/x.pdf", "type": "document"}


def test_file():
    assert said(field("file", required=True), PDF["url"]) == (PDF, [])


def test_file_list():
    assert said(field("file-list", required=True), PDF["url"]) == ([PDF], [])


def test_file_list_of_a_jsonl_sheet():
    assert said(field("file-list"), JsonCell([PDF["url"], PDF])) == ([PDF, PDF], [])


NO_FILES = [True, 5, 0.5, dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.time(1), dt.timedelta(1), "a.pdf"]


@pytest.mark.parametrize("cell", NO_FILES, ids=repr)
@pytest.mark.parametrize("kind", FILES)
def test_no_file(kind, cell):
    assert said(field(kind), cell) == (ABSENT, ["file_not_url"])


@pytest.mark.parametrize("cell", ["https://a.com/\ud83d.pdf", JsonCell(["https://a.com/\ud83d.pdf"])], ids=ascii)
@pytest.mark.parametrize("kind", FILES)
def test_half_a_character_in_a_link(kind, cell):
    assert said(field(kind), cell) == (ABSENT, ["broken_character"])


def test_file_problem_keeps_its_numbers():
    (finding,) = read_cell(field("file-list", max_length=1), JsonCell([PDF, PDF])).findings
    assert (finding.code, finding.params) == ("file_too_many", {"limit": 1, "found": 2})
