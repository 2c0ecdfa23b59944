"""What Excel can hold, and XlsxWriter set up so that text stays text."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import xlsxwriter
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

if TYPE_CHECKING:
    from rowmill.sheets.draft import Draft

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
# Excel counts UTF-16 units: a character outside the first plane is two.
MAX_UNITS = 32_767
PIECE_UNITS = 32_000
TITLE_UNITS = 31
# Excel believes that 1900 had a 29 February: days before are off by one in some programs.
FIRST_SAFE_DATE = dt.date(1900, 3, 1)

FORBIDDEN_IN_TITLE = re.compile(r"[\[\]:*?/\\]")
# Not allowed in XML; cells have an escape for them, names and messages have none.
CONTROL = re.compile("[\x00-\x1f\ufffe\uffff]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
ASTRAL = re.compile("[\U00010000-\U0010ffff]")

# XlsxWriter would otherwise turn text that looks like a formula, link or number into one.
OPTIONS = {
    "constant_memory": True,
    "strings_to_formulas": False,
    "strings_to_urls": False,
    "strings_to_numbers": False,
    "use_zip64": True,
}


class TextSheet(Worksheet):  # type: ignore[misc]
    """XlsxWriter takes a text like `<r>…</r>` for its own rich text and writes it as XML, unescaped."""

    def _xml_rich_inline_string(self, string: str, attributes: Any = ()) -> None:
        self._xml_inline_string(string, False, attributes)


def new_workbook(draft: Draft) -> Any:
    """Rows of a sheet must be written in order; sheets may take turns. Its temporary files lie with the draft."""
    return xlsxwriter.Workbook(str(draft.path), {**OPTIONS, "tmpdir": str(draft.folder)})


def new_sheet(book: Any, name: str) -> Any:
    return book.add_worksheet(name, worksheet_class=TextSheet)


def close_workbook(book: Any) -> None:
    """Raises OSError where XlsxWriter puts one into an exception of its own."""
    try:
        book.close()
    except FileCreateError as error:
        inner = error.args[0] if error.args else None
        raise (inner if isinstance(inner, OSError) else OSError(str(error))) from None


def drop_workbook(book: Any) -> None:
    """Lets a half-made workbook go: XlsxWriter has no public way."""
    book.fileclosed = True
    for sheet in book.worksheets():
        sheet._opt_close()  # noqa: SLF001


def clean(text: str) -> str:
    """Without lone surrogates, which no file can hold."""
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """For names, headers and messages: no line ends, nothing that XML forbids."""
    return CONTROL.sub(" ", clean(text).replace("\r\n", "\n")).strip()


def units(text: str) -> int:
    """The length of the text as Excel counts it."""
    return len(text) if text.isascii() else len(text) + len(ASTRAL.findall(text))


def cut(text: str, limit: int) -> str:
    """At most `limit` of Excel's units, with … where something is missing."""
    if units(text) <= limit:
        return text
    kept = text[: limit - 1]
    while units(kept) > limit - 1:
        kept = kept[:-1]
    return f"{kept}…"


def sheet_title(name: str, otherwise: str) -> str:
    """A name that Excel accepts for a sheet."""
    plain = cut(FORBIDDEN_IN_TITLE.sub(" ", one_line(name)).strip("' "), TITLE_UNITS)
    # Excel keeps this name for itself.
    return otherwise if not plain or plain.casefold() == "history" else plain


def numbered(title: str, number: int) -> str:
    """The title of the first, second … sheet of the same kind."""
    ending = f" {number}" if number > 1 else ""
    return cut(title, TITLE_UNITS - len(ending)) + ending
