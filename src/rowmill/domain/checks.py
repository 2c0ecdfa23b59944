"""Rows x mapping -> values and ALL problems. Nothing is sent before every row has been through here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rowmill.domain.cell import is_empty
from rowmill.domain.mapping import Feed, Mapping, column_letter
from rowmill.domain.problem import Problem, Repair, Severity, repair_of
from rowmill.domain.values import Finding, Reading, look_at, read_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rowmill.domain.cell import Cell
    from rowmill.domain.form import Field, Form
    from rowmill.domain.listing import Listing


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """`inputs` is ready to be sent when no problem is an error. `blank` rows keep their place and are not run."""

    inputs: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    blank: bool = False


class RowCheck:
    """Checks rows of one sheet against one form and mapping."""

    def __init__(
        self,
        form: Form,
        mapping: Mapping,
        headers: Sequence[str],
        schema_check: Callable[[str, Any], str | None] | None = None,
        listing: Listing | None = None,
    ) -> None:
        self._headers = headers
        self._schema_check = schema_check
        self._listing = listing
        fields = {spec.variable: spec for spec in form.fields}
        used = mapping.columns_used()
        self._own = [column for column in range(len(headers)) if column not in used]
        self._warned: set[tuple[str, int]] = set()
        self._columns = [(f, fields[f.variable], f.column) for f in mapping.feeds if f.column is not None]
        self._constants = {
            f.variable: self._read_constant(fields[f.variable], f) for f in mapping.feeds if f.column is None
        }

    def _read_constant(self, spec: Field, feed: Feed) -> Reading:
        return read_cell(spec, feed.constant, self._schema_check, self._listing)

    def constants(self) -> list[Problem]:
        """What is wrong with the constants: said once and not for every row."""
        return [
            Problem(f.code, variable=variable, params=f.params, severity=f.severity)
            for variable, reading in self._constants.items()
            for f in reading.findings
        ]

    def check(self, number: int, cells: Sequence[Cell]) -> CheckedRow:
        """`number` is the row's number in the sheet, `cells` as long as the headers."""
        if all(is_empty(cell) for cell in cells):
            return CheckedRow({}, blank=True)
        inputs = {v: r.value for v, r in self._constants.items() if not r.absent}
        problems: list[Problem] = []
        for feed, spec, column in self._columns:
            cell = cells[column] if column < len(cells) else None
            reading = read_cell(spec, cell, self._schema_check, self._listing)
            if not reading.absent:
                inputs[feed.variable] = reading.value
            problems.extend(self._placed(finding, number, column, feed.variable) for finding in reading.findings)
        problems.extend(self._own_columns(number, cells))
        return CheckedRow(inputs, tuple(problems))

    def problem(self, finding: Finding, number: int, variable: str) -> Problem:
        """What somebody else has found wrong with a field's value in a row."""
        column = next((column for feed, _, column in self._columns if feed.variable == variable), None)
        if column is None:
            return Problem(finding.code, variable=variable, params=finding.params, severity=finding.severity)
        return self._placed(finding, number, column, variable)

    def _own_columns(self, number: int, cells: Sequence[Cell]) -> Iterator[Problem]:
        """What is carried through and not sent: worth one warning for each column."""
        for column in self._own:
            cell = cells[column] if column < len(cells) else None
            finding = None if cell is None or type(cell) is str else look_at(cell)
            if finding is not None and (finding.code, column) not in self._warned:
                self._warned.add((finding.code, column))
                yield self._placed(finding, number, column, None)

    def _placed(self, finding: Finding, number: int, column: int, variable: str | None) -> Problem:
        return Problem(
            finding.code,
            row=number,
            column=self._headers[column],
            letter=column_letter(column),
            variable=variable,
            params=finding.params,
            severity=finding.severity,
        )


@dataclass(slots=True)
class CheckReport:
    """What a whole check found. Holds the first problems and counts; the full list goes elsewhere as it appears."""

    keep: int = 1000
    rows: int = 0
    blank: int = 0
    bad_rows: int = 0
    first: list[Problem] = field(default_factory=list)
    repairs: Counter[Repair] = field(default_factory=Counter)
    examples: dict[Repair, Problem] = field(default_factory=dict)
    rows_of: dict[Repair, list[int]] = field(default_factory=dict)

    def add_row(self, checked: CheckedRow) -> None:
        self.rows += not checked.blank
        self.blank += checked.blank
        self.bad_rows += any(p.severity is Severity.ERROR for p in checked.problems)
        for problem in checked.problems:
            self.add(problem)

    def add(self, problem: Problem) -> None:
        repair = repair_of(problem)
        self.repairs[repair] += 1
        self.examples.setdefault(repair, problem)
        rows = self.rows_of.setdefault(repair, [])
        if problem.row is not None and len(rows) < self.keep:
            rows.append(problem.row)
        if len(self.first) < self.keep:
            self.first.append(problem)

    def count(self, severity: Severity) -> int:
        return sum(n for repair, n in self.repairs.items() if repair.severity is severity)

    @property
    def errors(self) -> int:
        return self.count(Severity.ERROR)

    @property
    def warnings(self) -> int:
        return self.count(Severity.WARNING)
