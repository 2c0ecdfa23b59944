from __future__ import annotations

import pytest

from rowmill.domain.cell import CellError, FormulaCell
from rowmill.domain.checks import CheckedRow, CheckReport, RowCheck
from rowmill.domain.mapping import Feed, Mapping, Reason, make_mapping
from rowmill.domain.problem import Problem, Repair, Severity, repair_of

from .making import field, form

QUERY = field(variable="query", required=True, max_length=5)
LANG = field("select", "lang", options=("de", "en"))
COUNT = field("number", "n")
DATA = field("json_object", "data", json_schema="{}")
FORM = form(QUERY, LANG, COUNT)
HEADERS = ["n", "query", "lang", "remark"]


def row_check(**wishes):
    return RowCheck(FORM, make_mapping(FORM, HEADERS, **wishes), HEADERS)


def test_good_row():
    checked = row_check().check(2, ["3", "hello", "de", "x"])
    assert checked == CheckedRow({"query": "hello", "lang": "de", "n": 3})


def test_empty_cells_are_left_out():
    assert row_check().check(2, [None, "hello", "", None]).inputs == {"query": "hello"}


def test_all_problems_of_a_row_at_once():
    problems = row_check().check(7, ["1e3", "too long", "fr", None]).problems
    assert [(p.code, p.row, p.column, p.letter, p.variable) for p in problems] == [
        ("too_long", 7, "query", "B", "query"),
        ("option_unknown", 7, "lang", "C", "lang"),
        ("number_wrong", 7, "n", "A", "n"),
    ]


def test_problem_carries_numbers_and_severity():
    (warning,) = row_check().check(3, [10**15, "hello", None, None]).problems
    assert warning == Problem(
        "digits_lost", 3, "n", "A", "n", params={"found": "1000000000000000"}, severity=Severity.WARNING
    )


def test_formula_without_a_value_is_an_error_in_a_field():
    (problem,) = row_check().check(3, [None, FormulaCell("=A1"), None, None]).problems
    assert (problem.code, problem.severity, problem.params) == (
        "formula_uncalculated",
        Severity.ERROR,
        {"found": "=A1"},
    )


@pytest.mark.parametrize("cell", [FormulaCell("=A1"), 123456789012345680, -1e15])
def test_own_columns_are_warned_of_once(cell):
    check = row_check()
    found = [check.check(row, [None, "hello", None, cell]).problems for row in (2, 3)]
    assert [(p.row, p.letter, p.variable, p.severity) for p in found[0]] == [(2, "D", None, Severity.WARNING)]
    assert found[1] == ()


@pytest.mark.parametrize("cell", [123456789012345678, 1.5, 10**14, True, None, float("inf"), float("nan"), "=A1"])
def test_own_columns_that_are_as_they_were(cell):
    assert row_check().check(2, [None, "hello", None, cell]).problems == ()


BLANKS = {
    "no cells": ([], True),
    "nothing": ([None, None, None, None], True),
    "white space": ["", " ", "\t", "\u3000"],
    "only a remark": ([None, None, None, "x"], False),
    "zero": ([0, None, None, None], False),
    "error": ([CellError("#N/A"), None, None, None], False),
    "FALSE": ([False, None, None, None], False),
}
BLANKS["white space"] = (["", " ", "\t", "\u3000"], True)


@pytest.mark.parametrize(("cells", "blank"), BLANKS.values(), ids=BLANKS)
def test_blank_row(cells, blank):
    checked = row_check().check(2, cells)
    assert checked.blank is blank
    assert bool(checked.problems) is not blank  # the required cell is missing


def test_blank_row_has_no_constants():
    assert row_check(constants={"lang": "de"}).check(2, [None] * 4) == CheckedRow({}, blank=True)


def test_short_row():
    checked = row_check().check(2, [5])
    assert [p.code for p in checked.problems] == ["required_missing"]
    assert checked.inputs == {"n": 5}


def test_constant_goes_into_every_row():
    check = row_check(constants={"lang": "de"})
    assert check.constants() == []
    assert check.check(2, [None, "a", "fr", None]) == CheckedRow({"lang": "de", "query": "a"})


def test_wrong_constant_is_said_once():
    check = row_check(constants={"lang": "fr", "n": "x"})
    assert [(p.code, p.row, p.column, p.variable) for p in check.constants()] == [
        ("option_unknown", None, None, "lang"),
        ("number_wrong", None, None, "n"),
    ]
    assert check.check(2, [None, "a", None, None]) == CheckedRow({"query": "a"})


def test_empty_constant_of_a_required_field():
    assert [p.code for p in row_check(constants={"query": " "}).constants()] == ["required_missing"]


def test_schema_is_asked_for_cells_and_constants():
    mapping = Mapping((Feed("data", Reason.VARIABLE, column=0), Feed("more", Reason.CONSTANT, constant='{"b": 1}')))
    fields = form(DATA, field("json_object", "more", json_schema="{}"))
    check = RowCheck(fields, mapping, ["data"], lambda _, value: f"not {','.join(value)}")
    (cell,) = check.check(2, ['{"a": 1}']).problems
    (constant,) = check.constants()
    assert (cell.params, constant.params) == ({"detail": "not a"}, {"detail": "not b"})


# ── the report ──────────────────────────────────────────────────────────────────────────────────────────────────────

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def bad(row, code="too_long", column="a", severity=ERROR):
    return CheckedRow({}, (Problem(code, row, column, severity=severity),))


def report_of(rows, **known):
    report = CheckReport(**known)
    for row in rows:
        report.add_row(row)
    return report


def test_report_counts():
    rows = [CheckedRow({}), CheckedRow({}, blank=True), bad(4), bad(5, severity=WARNING), bad(6, "number_wrong", "b")]
    report = report_of(rows)
    assert (report.rows, report.blank, report.bad_rows, report.errors, report.warnings) == (4, 1, 2, 2, 1)


def test_row_with_two_errors_is_one_bad_row():
    report = report_of([CheckedRow({}, (*bad(2).problems, *bad(2, column="b").problems))])
    assert (report.bad_rows, report.errors) == (1, 2)


def test_problems_are_grouped_by_what_repairs_them():
    report = report_of([bad(2), bad(3), bad(4, column="b"), bad(5, severity=WARNING)])
    group = Repair("too_long", "a", ERROR)
    assert report.repairs == {group: 2, Repair("too_long", "b", ERROR): 1, Repair("too_long", "a", WARNING): 1}
    assert report.rows_of[group] == [2, 3]
    assert report.examples[group].row == 2


def test_repair_is_the_same_for_every_row():
    assert repair_of(Problem("x", 1, "a")) == repair_of(Problem("x", 2, "a", params={"found": 1}))
    assert repair_of(Problem("x", 1, "a")) != repair_of(Problem("x", 1, "b"))


def test_report_is_bounded_and_counts_all_the_same():
    report = report_of([bad(row) for row in range(2, 502)], keep=3)
    group = Repair("too_long", "a", ERROR)
    assert [p.row for p in report.first] == report.rows_of[group] == [2, 3, 4]
    assert (report.errors, report.bad_rows, report.rows) == (500, 500, 500)


def test_problem_without_a_row():
    report = CheckReport()
    report.add(Problem("option_unknown", variable="lang"))
    assert (report.errors, report.bad_rows, list(report.rows_of.values())) == (1, 0, [[]])
