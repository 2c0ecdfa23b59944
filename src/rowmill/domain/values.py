"""How a cell becomes the value of a field: Dify's own rules, applied before anything is sent.

The rules are those of Dify's `_validate_inputs` (see docs/design/checks.md for the list and where we are stricter).
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rowmill.domain.cell import EXCEL_EXACT, Cell, CellError, FormulaCell, JsonCell, as_text, is_empty
from rowmill.domain.files import placeholders, read_files
from rowmill.domain.form import Field, FieldKind
from rowmill.domain.problem import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.domain.errors import Param
    from rowmill.domain.listing import Listing

TRUE_WORDS = frozenset({"true", "1", "yes", "on", "是", "对", "真"})
FALSE_WORDS = frozenset({"false", "0", "no", "off", "否", "错", "假"})

# JSON numbers beyond this lose digits in many parsers; Dify accepts the same number as text.
SAFE_INTEGER = 2**53


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of one cell, before the check adds row and column."""

    code: str
    params: dict[str, Param] = field(default_factory=dict)
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True)
class Reading:
    """`value` is what to send; when `absent` the key is left out of `inputs`."""

    value: Any = None
    absent: bool = False
    findings: tuple[Finding, ...] = ()


ABSENT = Reading(absent=True)


def read_cell(
    spec: Field,
    cell: Cell,
    schema_check: Callable[[str, Any], str | None] | None = None,
    listing: Listing | None = None,
) -> Reading:
    """The value of one field for one row, with everything that is wrong with it. `listing`: files that may be named."""
    try:
        return _read_any(spec, cell, schema_check, listing)
    except RecursionError:
        return _wrong("json_wrong", detail="nested too deeply")


def look_at(cell: Cell) -> Finding | None:
    """What is wrong with a cell that no field takes. In jsonl long numbers are whole, and then most are no float."""
    if isinstance(cell, FormulaCell):
        return Finding("formula_uncalculated", {"found": _short(cell.text)}, Severity.WARNING)
    if type(cell) in (int, float) and EXCEL_EXACT <= abs(cell) < math.inf and float(cell) == cell:  # type: ignore[arg-type,operator]
        return Finding("digits_lost", {"found": str(int(cell))}, Severity.WARNING)  # type: ignore[arg-type]
    return None


def _read_any(
    spec: Field, cell: Cell, schema_check: Callable[[str, Any], str | None] | None, listing: Listing | None
) -> Reading:
    if isinstance(cell, CellError):
        return _wrong("error_cell", found=cell.text)
    if isinstance(cell, FormulaCell):
        return _wrong("formula_uncalculated", found=_short(cell.text))
    if is_empty(cell):
        return _read_nothing(spec)
    if _is_damaged(spec, cell):
        return _read_damaged(spec, cell)
    if spec.kind is FieldKind.JSON:
        return _read_json(spec, cell, schema_check)
    if spec.kind.is_file:
        return _read_file(spec, cell, listing)
    return _READERS[spec.kind](spec, cell)


def _wrong(code: str, **params: Param) -> Reading:
    return Reading(absent=True, findings=(Finding(code, params),))


def _read_nothing(spec: Field) -> Reading:
    if spec.required:
        return _wrong("required_missing", kind=spec.kind.value)
    if spec.kind is FieldKind.SELECT and spec.default is not None and spec.options and spec.default not in spec.options:
        # Dify then puts its stored default in ("" in old apps) and refuses it: an option must be named.
        return _wrong("select_needs_choice", options=spec.options)
    return ABSENT


def _is_damaged(spec: Field, cell: Cell) -> bool:
    numeric = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    return numeric and not spec.kind.is_file and math.isfinite(cell) and abs(cell) >= EXCEL_EXACT  # type: ignore[arg-type,operator]


def _read_damaged(spec: Field, cell: Cell) -> Reading:
    """A long number: in a text field it is an id whose last digits Excel has already replaced by zeros."""
    shown = str(int(cell)) if isinstance(cell, (int, float)) else ""
    if spec.kind is FieldKind.NUMBER:
        return Reading(shown, findings=(Finding("digits_lost", {"found": shown}, Severity.WARNING),))
    return _wrong("digits_lost", found=shown)


def _read_text(spec: Field, cell: Cell) -> Reading:
    text = as_text(cell)
    findings = []
    if "\x00" in text:
        text = text.replace("\x00", "")
        if is_empty(text):
            return _read_nothing(spec)
        findings.append(Finding("nul_removed", severity=Severity.WARNING))
    if _has_surrogate(text):
        return _wrong("broken_character")
    if spec.max_length and len(text) > spec.max_length:
        findings.append(Finding("too_long", {"limit": spec.max_length, "found": len(text)}))
    return Reading(text, findings=tuple(findings))


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_select(spec: Field, cell: Cell) -> Reading:
    text = as_text(cell)
    for candidate in (text, text.strip()):
        if candidate in spec.options:
            return Reading(candidate)
    near = next((o for o in spec.options if o.strip().casefold() == text.strip().casefold()), None)
    if near is not None:
        return _wrong("option_spelling", found=text, near=near)
    return _wrong("option_unknown", found=_short(text), options=_some(spec.options))


def _read_number(spec: Field, cell: Cell) -> Reading:
    del spec
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return _wrong("number_wrong", found=_short(as_text(cell)))
    if isinstance(cell, str):
        return _parse_number(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return _wrong("number_wrong", found=as_text(cell))
    return Reading(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def _parse_number(text: str) -> Reading:
    """Dify's own parser: a dot makes a float, anything else must be an integer."""
    try:
        number = float(text) if "." in text else int(text)
    except ValueError:
        return _wrong("number_wrong", found=_short(text))
    if isinstance(number, float) and not math.isfinite(number):
        return _wrong("number_wrong", found=_short(text))
    return Reading(str(number) if isinstance(number, int) and abs(number) > SAFE_INTEGER else number)


def _read_checkbox(spec: Field, cell: Cell) -> Reading:
    del spec
    if isinstance(cell, bool):
        return Reading(cell)
    word = as_text(cell).strip().casefold()
    if word in TRUE_WORDS:
        return Reading(value=True)
    if word in FALSE_WORDS:
        return Reading(value=False)
    return _wrong("checkbox_wrong", found=_short(word))


def _read_json(spec: Field, cell: Cell, schema_check: Callable[[str, Any], str | None] | None) -> Reading:
    try:
        value = cell.value if isinstance(cell, JsonCell) else json.loads(as_text(cell))
        # Python reads NaN, 1e999 and half characters, none of which can be sent.
        if _has_surrogate(json.dumps(value, ensure_ascii=False, allow_nan=False)):
            return _wrong("broken_character")
    except ValueError as error:
        return _wrong("json_wrong", detail=_short(str(error)))
    if not isinstance(value, dict):
        return _wrong("json_not_object", found=_short(as_text(cell)))
    misfit = schema_check(spec.json_schema, value) if schema_check and spec.json_schema else None
    if misfit is not None:
        return _wrong("json_schema_misfit", detail=_short(misfit, 200))
    return Reading(value)


def _read_file(spec: Field, cell: Cell, listing: Listing | None) -> Reading:
    if isinstance(cell, (dt.date, dt.time, dt.timedelta, bool)) or (isinstance(cell, (int, float)) and listing is None):
        return _wrong("file_not_url", found=_short(as_text(cell)))
    if _has_surrogate(as_text(cell)):
        return _wrong("broken_character")
    entries = cell.value if isinstance(cell, JsonCell) else as_text(cell)
    files, misfits = read_files(spec, entries, listing)
    if misfits:
        return Reading(absent=True, findings=tuple(Finding(code, dict(params)) for code, params in misfits))
    empty = [file for file in placeholders({"": files}) if not file["size"]]
    return Reading(
        files, findings=tuple(Finding("file_empty", {"found": file["name"]}, Severity.WARNING) for file in empty)
    )


_READERS: dict[FieldKind, Callable[[Field, Cell], Reading]] = {
    FieldKind.TEXT: _read_text,
    FieldKind.PARAGRAPH: _read_text,
    FieldKind.SELECT: _read_select,
    FieldKind.NUMBER: _read_number,
    FieldKind.CHECKBOX: _read_checkbox,
}


def _some(options: tuple[str, ...], limit: int = 200) -> tuple[str, ...]:
    """As many as a line holds."""
    kept: list[str] = []
    for option in options:
        left = limit - sum(map(len, kept))
        if len(option) > left:
            return (*kept, "…" if kept else _short(option, limit))
        kept.append(option)
    return tuple(kept)


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
