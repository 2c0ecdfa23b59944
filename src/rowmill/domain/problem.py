"""What is wrong with a cell, a column or a sheet, in codes that rowmill.texts puts into words."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.domain.errors import Param


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `row` is the row's number in the sheet (header = 1); `column` its header, `letter` its Excel letter.

    `code` names the texts `problem.<code>` (what was expected and found) and `repair.<code>` (what to do).
    """

    code: str
    row: int | None = None
    column: str | None = None
    letter: str | None = None
    variable: str | None = None
    params: dict[str, Param] = field(default_factory=dict)
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True)
class Repair:
    """Problems that one and the same action repairs."""

    code: str
    column: str | None
    severity: Severity


def repair_of(problem: Problem) -> Repair:
    return Repair(problem.code, problem.column, problem.severity)
