"""Opening a table, whatever kind of file it is.

Every SheetError that reading raises, with its parameters:

    the file          sheet_missing(path)  sheet_is_folder(path)  sheet_unreadable(path, detail)  sheet_empty()
                      sheet_no_rows()  header_row_empty(row)  sheet_file_too_big(size, limit)
                      sheet_kind_unknown(ending)
    what it is        sheet_encrypted()  sheet_xls()  sheet_macros()  sheet_xlsb()  sheet_not_workbook(ending)
                      sheet_damaged(detail)
    how big it is     sheet_zip_entries(found, limit)  sheet_zip_size(found, limit)  sheet_zip_ratio(found, limit)
                      sheet_too_big_to_read(detail: memory | time | crash)  sheet_too_many_columns(found, limit)
                      sheet_too_many_rows(found, limit)  cell_too_long(row, column, limit)
    which sheet       sheet_name_unknown(name, available)
    csv and tsv       csv_nul(row)  csv_quote_open(row)  csv_field_too_long(row, limit)
                      csv_row_too_wide(row, found, headers)  csv_encoding_unknown()  csv_encoding_name(encoding)
                      csv_encoding_wrong(encoding)
    jsonl             jsonl_bad_line(line, detail)  jsonl_line_too_long(line, limit)

Bytes for `size` and for the limit beside it; columns are counted from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowmill.domain.errors import SheetError
from rowmill.sheets.jsonl import OpenJsonLines
from rowmill.sheets.kinds import Kind, kind_of, unreadable
from rowmill.sheets.limits import Limits
from rowmill.sheets.text import OpenText
from rowmill.sheets.workbook import OpenWorkbook

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.ports.sheets import OpenSheet


@dataclass(frozen=True, slots=True)
class Sheets:
    """Reads xlsx, ods, csv, tsv and jsonl. Files are only ever opened for reading."""

    limits: Limits = field(default_factory=Limits)

    def open(
        self,
        path: Path,
        sheet_name: str | None = None,
        *,
        header_row: int | None = None,
        encoding: str | None = None,
    ) -> OpenSheet:
        """`encoding` overrides what is found for csv and tsv; other kinds say it themselves."""
        try:
            return self._open(path, sheet_name, header_row, encoding)
        except OSError as error:
            raise unreadable(path, error) from error

    def _open(self, path: Path, sheet_name: str | None, header_row: int | None, encoding: str | None) -> OpenSheet:
        kind = kind_of(path, self.limits)
        if kind.is_workbook:
            return OpenWorkbook(path, kind, sheet_name, self.limits, header_row=header_row)
        if sheet_name is not None and sheet_name.strip().casefold() != path.stem.casefold():
            # A text file is one table; its name is the only one that can be meant.
            raise SheetError("sheet_name_unknown", name=sheet_name, available=path.stem)
        if kind is Kind.JSONL:
            return OpenJsonLines(path, self.limits)
        separator = "\t" if kind is Kind.TSV else None
        return OpenText(path, self.limits, encoding=encoding, separator=separator, header_row=header_row)
