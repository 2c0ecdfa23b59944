"""The SentMarks port on a small file: one fixed place per slot, written without waiting for the disk.

The page cache outlives the process, so after a kill the marks are whole. After a reboot, or when the folder is a copy,
they are not to be trusted: the header names the boot and the file's own inode.

Whoever opens the marks moves the former runner's file away before it reads them. A former runner that was only
suspended looks, after each mark, whether its file still stands where it was: either its mark was there to be read, or
it finds out before the first byte leaves. A fence in the database alone would come too late: the intent was committed.

The first page is mapped into memory: which row is being handled changes some dozens of times per row, and a system call
for each would cost more than the handling (docs/design/pay-once.md, "A row that kills its process").
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from rowmill.domain.errors import FencedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rowmill.ports.store import AttemptKey

_KEY = struct.Struct(">32sqq")
_PLACE = struct.Struct(">48sd")
_DEATH = struct.Struct(">qq")
_PAGE = 4096
_HEADER = 128
# Behind the header: the row being handled (its position + 1, native, so that one store writes it whole), then the
# deaths that each row has seen.
_HANDLED = _HEADER // 8
_DEATHS = _HEADER + 8
_MOST_DEATHS = (_PAGE - _DEATHS) // _DEATH.size
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NOBODY = -1


class SentFile:
    """See SentMarks. What a former process marked is read at the opening, and stays in a file until `begin`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._former_path = path.with_name(f"{path.name}.former")
        with suppress(FileNotFoundError):
            path.replace(self._former_path)
        self._trusted, former = _read_marks(self._former_path)
        self._former = former[_PAGE:]
        self._deaths = _read_deaths(former) if self._trusted else {}
        self._file, self._inode = _NOBODY, 0
        self._map: mmap.mmap | None = None
        self._words = memoryview(bytearray(_PAGE)).cast("q")

    def begin(self, kept: Iterable[tuple[int, AttemptKey]] = ()) -> None:
        self.close()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(self._file).st_ino
        os.pwrite(self._file, self._first_page(), 0)
        self._map = mmap.mmap(self._file, _PAGE)
        self._words = memoryview(self._map).cast("q")
        for slot, key in kept:
            if self.was_sent(slot, key):
                os.pwrite(self._file, self._former_place(slot), _offset(slot))
        self._former_path.unlink(missing_ok=True)

    def _former_place(self, slot: int) -> bytes:
        return self._former[slot * _PLACE.size : (slot + 1) * _PLACE.size]

    def _first_page(self) -> bytes:
        header = _own_header(self._file) or b""
        # Where there is no room for all, those that have seen the most count.
        most = sorted(self._deaths.items(), key=lambda row: -row[1])[:_MOST_DEATHS]
        deaths = b"".join(_DEATH.pack(position, count) for position, count in most)
        return (header.ljust(_DEATHS, b"\0") + deaths).ljust(_PAGE, b"\0")

    def mark(self, slot: int, key: AttemptKey, at: float) -> None:
        os.pwrite(self._file, _PLACE.pack(_packed(key), at), _offset(slot))
        if not self._is_mine():
            raise FencedError("fenced", fence=None, newest=None)

    def _is_mine(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode  # noqa: PTH116 -- once per row: half the price
        except FileNotFoundError:
            return False

    def was_sent(self, slot: int, key: AttemptKey) -> bool | None:
        if not self._trusted:
            return None
        return self._former_place(slot)[: _KEY.size] == _packed(key)

    def sent_at(self, slot: int, key: AttemptKey) -> float | None:
        place = b"" if self._file == _NOBODY else os.pread(self._file, _PLACE.size, _offset(slot))
        if len(place) < _PLACE.size:
            return None
        marked, at = _PLACE.unpack(place)
        return float(at) if marked == _packed(key) else None

    def handle(self, position: int | None) -> None:
        self._words[_HANDLED] = 0 if position is None else position + 1

    def deaths(self) -> dict[int, int]:
        return dict(self._deaths)

    def forget(self, position: int) -> None:
        if self._deaths.pop(position, None) is not None and self._file != _NOBODY:
            os.pwrite(self._file, self._first_page()[_DEATHS:], _DEATHS)

    def close(self) -> None:
        if self._map is not None:
            self.handle(None)
            self._words.release()
            self._words = memoryview(bytearray(_PAGE)).cast("q")
            self._map.close()
            self._map = None
        if self._file != _NOBODY:
            os.close(self._file)
            self._file = _NOBODY


def _read_marks(path: Path) -> tuple[bool, bytes]:
    """Whether they can be trusted, and the marks. Where there are none nothing is known: the folder may be a copy."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, b""
    try:
        content = os.pread(file, os.fstat(file).st_size, 0)
        header = _own_header(file)
        return header is not None and content[:_HEADER] == header, content
    finally:
        os.close(file)


def _read_deaths(content: bytes) -> dict[int, int]:
    """How many processes died while they handled which row, the last one included."""
    content = content.ljust(_PAGE, b"\0")
    listed = content[_DEATHS : _DEATHS + _MOST_DEATHS * _DEATH.size]
    deaths = {position: count for position, count in _DEATH.iter_unpack(listed) if count > 0}
    handled = memoryview(content[:_PAGE]).cast("q")[_HANDLED] - 1
    if handled >= 0:
        deaths[handled] = deaths.get(handled, 0) + 1
    return deaths


def _own_header(file: int) -> bytes | None:
    try:
        with open(_BOOT_ID, encoding="ascii") as boot:  # noqa: PTH123
            boot_id = boot.read().strip()
    except OSError:
        return None
    own = os.fstat(file)
    return f"rowmill-sent-2 {boot_id} {own.st_dev} {own.st_ino}".encode().ljust(_HEADER)


def _offset(slot: int) -> int:
    return _PAGE + slot * _PLACE.size


def _packed(key: AttemptKey) -> bytes:
    return _KEY.pack(key.batch_id.encode()[:32], key.position, key.number)
