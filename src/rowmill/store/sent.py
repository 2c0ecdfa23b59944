"""The SentMarks port on a small file: one fixed place per slot, written without waiting for the disk.

The page cache outlives the process, so after a kill the marks are whole. After a reboot, or when the folder is a copy,
they are not to be trusted: the header names the boot and the file's own inode.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.ports.store import AttemptKey

_PLACE = struct.Struct(">32sqq")
_HEADER = 128
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class SentFile:
    """See SentMarks. What a former process marked is read at the opening, and stays in the file until `begin`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._header = self._own_header()
        self._trusted = self._header is not None and os.pread(self._file, _HEADER, 0) == self._header
        self._former = os.pread(self._file, os.fstat(self._file).st_size, 0)[_HEADER:] if self._trusted else b""

    def begin(self) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self._header or b"", 0)

    def _own_header(self) -> bytes | None:
        try:
            with open(_BOOT_ID, encoding="ascii") as boot:  # noqa: PTH123
                boot_id = boot.read().strip()
        except OSError:
            return None
        own = os.fstat(self._file)
        return f"rowmill-sent-1 {boot_id} {own.st_dev} {own.st_ino}".encode().ljust(_HEADER)

    def mark(self, slot: int, key: AttemptKey) -> None:
        os.pwrite(self._file, _place(key), _HEADER + slot * _PLACE.size)

    def was_sent(self, slot: int, key: AttemptKey) -> bool | None:
        if not self._trusted:
            return None
        start = slot * _PLACE.size
        return self._former[start : start + _PLACE.size] == _place(key)

    def close(self) -> None:
        os.close(self._file)


def _place(key: AttemptKey) -> bytes:
    return _PLACE.pack(key.batch_id.encode()[:32], key.position, key.number)
