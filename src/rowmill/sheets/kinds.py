"""What a file is, by its first bytes and then by its ending; what is refused before anything parses it."""

from __future__ import annotations

import io
import zipfile
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO

from rowmill.domain.errors import SheetError, os_detail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rowmill.sheets.limits import Limits

OLE_MAGIC = bytes.fromhex("D0CF11E0A1B11AE1")
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
BLOCK = 1 << 20
# The list of a zip's entries is read in one go: this is far more than the entries that are allowed need.
LONGEST_READ = 8 << 20


class Kind(StrEnum):
    XLSX = "xlsx"
    ODS = "ods"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"

    @property
    def is_workbook(self) -> bool:
        return self in (Kind.XLSX, Kind.ODS)


ENDINGS = {
    ".csv": Kind.CSV,
    ".txt": Kind.CSV,
    ".tsv": Kind.TSV,
    ".tab": Kind.TSV,
    ".jsonl": Kind.JSONL,
    ".ndjson": Kind.JSONL,
}
WORKBOOK_ENDINGS = (".xlsx", ".ods")
REFUSED_ENDINGS = {".xlsm": "sheet_macros", ".xltm": "sheet_macros", ".xlsb": "sheet_xlsb", ".xls": "sheet_xls"}


def kind_of(path: Path, limits: Limits) -> Kind:
    """Raises SheetError for what is not a table that can be read."""
    _check_file(path, limits)
    ending = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(8)
        if start == OLE_MAGIC:
            raise SheetError("sheet_encrypted" if _holds(file, ENCRYPTED) else "sheet_xls")
    if ending in REFUSED_ENDINGS:
        raise SheetError(REFUSED_ENDINGS[ending])
    if start.startswith(ZIP_MAGICS):
        return _workbook_kind(path, limits)
    if ending in WORKBOOK_ENDINGS:
        raise SheetError("sheet_not_workbook", ending=ending)
    if ending not in ENDINGS:
        raise SheetError("sheet_kind_unknown", ending=ending)
    return ENDINGS[ending]


def _check_file(path: Path, limits: Limits) -> None:
    if not path.exists():
        raise SheetError("sheet_missing", path=str(path))
    if path.is_dir():
        raise SheetError("sheet_is_folder", path=str(path))
    if not path.is_file():
        raise SheetError("sheet_kind_unknown", ending=path.suffix)
    size = path.stat().st_size
    if size == 0:
        raise SheetError("sheet_empty")
    if size > limits.file_bytes:
        raise SheetError("sheet_file_too_big", size=size, limit=limits.file_bytes)


def unreadable(path: Path, error: OSError) -> SheetError:
    return SheetError("sheet_unreadable", path=str(path), detail=os_detail(error))


def blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _holds(file: BinaryIO, wanted: bytes) -> bool:
    tail = b""
    for block in blocks(file):
        if wanted in tail + block:
            return True
        tail = block[-len(wanted) :]
    return False


class _CarefulFile(io.FileIO):
    """A zip can claim that its list of entries is a gigabyte long: zipfile would read all of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(LONGEST_READ)
        if size > LONGEST_READ:
            raise zipfile.BadZipFile
        return super().read(size)


def _workbook_kind(path: Path, limits: Limits) -> Kind:
    try:
        with _CarefulFile(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise SheetError("sheet_damaged", detail="zip") from error
    _check_entries(entries, limits)
    return _kind_by_parts({entry.filename.replace("\\", "/").lower() for entry in entries}, path.suffix.lower())


def _check_entries(entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    packed = sum(entry.compress_size for entry in entries)
    unpacked = sum(entry.file_size for entry in entries)
    ratio = unpacked // max(packed, 1)
    if len(entries) > limits.zip_entries:
        raise SheetError("sheet_zip_entries", found=len(entries), limit=limits.zip_entries)
    if unpacked > limits.zip_bytes:
        raise SheetError("sheet_zip_size", found=unpacked, limit=limits.zip_bytes)
    if unpacked > limits.zip_ratio_from and ratio > limits.zip_ratio:
        raise SheetError("sheet_zip_ratio", found=ratio, limit=limits.zip_ratio)


def _kind_by_parts(names: set[str], ending: str) -> Kind:
    if "xl/vbaproject.bin" in names:
        raise SheetError("sheet_macros")
    if "xl/workbook.bin" in names:
        raise SheetError("sheet_xlsb")
    if "xl/workbook.xml" in names:
        return Kind.XLSX
    if "content.xml" in names and "mimetype" in names:
        return Kind.ODS
    raise SheetError("sheet_not_workbook", ending=ending)
