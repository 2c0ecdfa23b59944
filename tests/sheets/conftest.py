from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openpyxl
import pytest

from rowmill.domain.errors import SheetError
from rowmill.sheets.read import Sheets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rowmill.ports.sheets import SheetHead, SheetReader, SheetRow


READER: SheetReader = Sheets()


def read(path: Path, sheet: str | None = None, **options: Any) -> tuple[SheetHead, list[SheetRow]]:
    opened = Sheets(**options).open(path, sheet)
    return opened.head, [row for rows in opened.rows() for row in rows]


def values(path: Path, sheet: str | None = None) -> list[tuple]:
    return [row.cells for row in read(path, sheet)[1]]


def refusal(path: Path, sheet: str | None = None, **options: Any) -> tuple[str, dict]:
    with pytest.raises(SheetError) as caught:
        read(path, sheet, **options)
    return caught.value.code, caught.value.params


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., Path]:
    """Makes a workbook from {"B2": value}."""

    def make(cells: dict[str, Any], name: str = "book.xlsx") -> Path:
        workbook = openpyxl.Workbook()
        for place, value in cells.items():
            workbook.active[place] = value
        workbook.save(tmp_path / name)
        workbook.close()
        return tmp_path / name

    return make


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def make(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return make
