"""The hidden sheet by which a template made by Rowmill is known again: how it is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowmill.ports.sheets import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STAMP_SHEET = "_rowmill"
OPTIONS_SHEET = "_rowmill_options"
FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Imprint:
    """The stamp and the names of the template's own sheets."""

    stamp: Stamp
    rows_sheet: str
    fields_sheet: str


def imprint_lines(imprint: Imprint) -> Iterator[tuple[str, str, str]]:
    yield "rowmill-template", FORMAT, ""
    yield "form", imprint.stamp.form_digest, ""
    yield "rows", imprint.rows_sheet, ""
    yield "fields", imprint.fields_sheet, ""
    for header, variable in imprint.stamp.columns.items():
        yield "column", header, variable


def read_imprint(lines: Iterable[tuple[str, str, str]]) -> Imprint | None:
    """None if the sheet is not one of ours, or of a later format."""
    facts: dict[str, str] = {}
    columns: dict[str, str] = {}
    for key, value, more in lines:
        if key == "column":
            columns[value] = more
        else:
            facts[key] = value
    if facts.get("rowmill-template") != FORMAT or "form" not in facts:
        return None
    return Imprint(Stamp(facts["form"], columns), facts.get("rows", ""), facts.get("fields", ""))
