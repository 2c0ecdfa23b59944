"""What one cell of a sheet can hold, and how it is kept as JSON without losing its kind."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CellError:
    """An Excel error value: `#N/A`, `#DIV/0!` … Not the same as an empty cell."""

    text: str


@dataclass(frozen=True, slots=True)
class FormulaCell:
    """A formula whose value is not in the file: no spreadsheet program has ever calculated it. `text` begins with =."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonCell:
    """An object or list that came from a jsonl sheet."""

    value: dict[str, Any] | list[Any]


Cell = (
    str
    | bool
    | int
    | float
    | dt.datetime
    | dt.date
    | dt.time
    | dt.timedelta
    | CellError
    | FormulaCell
    | JsonCell
    | None
)

# Excel keeps 15 significant digits: a longer number in a cell is no longer the one that was typed.
EXCEL_EXACT = 10**15


def is_empty(cell: Cell) -> bool:
    """True for nothing and for text that is only white space."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def as_text(cell: Cell) -> str:
    """A cell as a person reads it: `3` for 3.0, ISO 8601 for dates, TRUE or FALSE, nothing for nothing."""
    match cell:
        case None:
            return ""
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case int():
            return str(cell)
        case float():
            return _number_text(cell)
        case dt.datetime():
            return _datetime_text(cell)
        case dt.date() | dt.time():
            return cell.isoformat()
        case dt.timedelta():
            return _duration_text(cell)
        case CellError() | FormulaCell():
            return cell.text
        case JsonCell():
            return json.dumps(cell.value, ensure_ascii=False)


def _number_text(number: float) -> str:
    if number.is_integer() and abs(number) < EXCEL_EXACT:
        return str(int(number))
    return repr(number)


def _datetime_text(moment: dt.datetime) -> str:
    if moment.time() == dt.time():
        return moment.date().isoformat()
    return moment.isoformat()


def _duration_text(span: dt.timedelta) -> str:
    seconds = int(abs(span).total_seconds())
    sign = "-" if span.days < 0 and seconds else ""
    return f"{sign}{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def to_json(cell: Cell) -> Any:
    """A JSON value from which `from_json` makes the same cell again. Kinds that JSON lacks become one-key objects."""
    match cell:
        case dt.datetime():
            return {"$datetime": cell.isoformat()}
        case dt.date():
            return {"$date": cell.isoformat()}
        case dt.time():
            return {"$time": cell.isoformat()}
        case dt.timedelta():
            return {"$seconds": cell.total_seconds()}
        case CellError():
            return {"$error": cell.text}
        case FormulaCell():
            return {"$formula": cell.text}
        case JsonCell():
            return {"$json": cell.value}
        case _:
            return cell


def from_json(value: Any) -> Cell:
    """The inverse of `to_json`."""
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    ((tag, inner),) = value.items()
    match tag:
        case "$datetime":
            return dt.datetime.fromisoformat(inner)
        case "$date":
            return dt.date.fromisoformat(inner)
        case "$time":
            return dt.time.fromisoformat(inner)
        case "$seconds":
            return dt.timedelta(seconds=inner)
        case "$error":
            return CellError(inner)
        case "$formula":
            return FormulaCell(inner)
        case _:
            return JsonCell(inner)
