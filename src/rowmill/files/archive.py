"""The files of a zip. Nothing is unpacked to a path of its own: names are keys, bytes go where the caller puts them."""

from __future__ import annotations

import errno
import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from rowmill.domain.errors import UsageError
from rowmill.domain.listing import tidy
from rowmill.files.names import decoded, is_litter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rowmill.files.limits import Limits

# The list of entries of 200,000 files; a zip can claim any length for it, and zipfile would read all of that.
LONGEST_READ = 64 * 1024**2
_ENCRYPTED = 0x1
_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError, zlib.error, struct.error)


class _CarefulFile(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(LONGEST_READ)
        if size > LONGEST_READ:
            raise zipfile.BadZipFile
        return super().read(size)


class Archive:
    """See rowmill.ports.files.FileSource."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.place = path.name
        self._file = _CarefulFile(path)
        try:
            self._zip = _opened(self._file, path)
            entries = self._zip.infolist()
            _check(entries, path, limits)
            self._entries = dict(_named(entries))
        except BaseException:
            self._file.close()
            raise
        self.sizes = {name: entry.file_size for name, entry in self._entries.items()}

    def open(self, name: str) -> _Entry:
        try:
            return _Entry(self._zip.open(self._entries[name]))
        except _BROKEN as error:
            raise OSError(errno.EIO, str(error) or "damaged") from error

    def close(self) -> None:
        self._zip.close()
        self._file.close()


class _Entry:
    """One file as it is inflated; zipfile gives no more than the zip says that it holds, and compares its check sum."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)  # type: ignore[no-any-return]
        except _BROKEN as error:
            raise OSError(errno.EIO, str(error) or "damaged") from error

    def close(self) -> None:
        self._stream.close()


def _opened(file: _CarefulFile, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _BROKEN as error:
        raise UsageError("files_zip_damaged", path=str(path)) from error


def _check(entries: list[zipfile.ZipInfo], path: Path, limits: Limits) -> None:
    unpacked = sum(entry.file_size for entry in entries)
    ratio = unpacked // max(path.stat().st_size, 1)
    if len(entries) > limits.most_files:
        raise UsageError("files_too_many", path=str(path), limit=limits.most_files)
    if unpacked > limits.zip_bytes:
        raise UsageError("files_zip_size", path=str(path), found=unpacked, limit=limits.zip_bytes)
    if unpacked > limits.zip_ratio_from and ratio > limits.zip_ratio:
        raise UsageError("files_zip_ratio", path=str(path), found=ratio, limit=limits.zip_ratio)
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise UsageError("files_zip_encrypted", path=str(path))


def _named(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for entry in entries:
        name = tidy(_name(entry))
        if name and not name.endswith("/") and not is_litter(name):
            yield name, entry


def _name(entry: zipfile.ZipInfo) -> str:
    """Python takes every name that is not said to be UTF-8 for DOS's; Chinese Windows writes GBK there, a Mac UTF-8."""
    if entry.flag_bits & _UTF8:
        return entry.orig_filename
    raw = entry.orig_filename.encode("cp437", "replace")
    return _unicode_path(entry.extra, raw) or decoded(raw)


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name that Info-ZIP and WinRAR write beside the one in the system's own letters."""
    while len(extra) >= 4:  # noqa: PLR2004 -- an id and a length
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(field) > 5 and struct.unpack("<L", field[1:5])[0] == zlib.crc32(raw):  # noqa: PLR2004
            return field[5:].decode("utf-8", "replace")
    return None
