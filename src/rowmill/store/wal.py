"""Whether SQLite's write-ahead log holds commits that SQLite does not see.

SQLite ends its log at the first frame whose checksum is wrong, and says nothing: right after a crash, where only the
last, unfinished transaction can be so. A damaged frame further up hides every commit behind it: paid results, and
intents of rows that would then be sent, and paid, again. It can be told from a crash: behind the broken frame stands a
whole transaction that was written *after* another one had been committed, and with `synchronous=FULL` no transaction is
begun before the one before it is on the disk.

Format: https://www.sqlite.org/fileformat2.html#walformat; the number of frames that SQLite sees: the log's index.
"""

from __future__ import annotations

import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rowmill.domain.errors import StoreError

if TYPE_CHECKING:
    from typing import BinaryIO

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_SUMMED = 24
_SEEN_AT = 16
"""where the index says how many frames count"""
_WORD = 2**32 - 1
# What is left of an earlier round of the log carries other salts; so many of them in a row, and no more is to come.
_ROUND_OVER = 64
# A runner may be writing while we read: a frame that was half written is whole a moment later.
_LOOKS = 3
_PAUSE = 0.05


def check_log(database: str) -> None:
    """Raises store_damaged. Within a read transaction, so that the log's index stands and the log is not begun anew."""
    for look in range(_LOOKS):
        if not _hides_commits(Path(f"{database}-wal"), Path(f"{database}-shm")):
            return
        time.sleep(_PAUSE * (look + 1))
    raise StoreError("store_damaged", path=f"{database}-wal", detail="commits behind a damaged frame of the log")


@dataclass(frozen=True, slots=True)
class _Frame:
    is_commit: bool
    salts: tuple[int, int]
    sums: tuple[int, int]
    summed: bytes
    """what its sums are made of"""


@dataclass(frozen=True, slots=True)
class _Log:
    file: BinaryIO
    order: str
    """byte order of the words that are summed"""
    page: int
    salts: tuple[int, int]
    sums: tuple[int, int]

    def frame(self, number: int) -> _Frame | None:
        """Frames count from 1."""
        self.file.seek(_HEADER.size + (number - 1) * (_FRAME.size + self.page))
        whole = self.file.read(_FRAME.size + self.page)
        if len(whole) < _FRAME.size + self.page:
            return None
        _, size, *rest = _FRAME.unpack_from(whole)
        return _Frame(size != 0, (rest[0], rest[1]), (rest[2], rest[3]), whole[:8] + whole[_FRAME.size :])


def _hides_commits(log_path: Path, index_path: Path) -> bool:
    try:
        with log_path.open("rb") as file, index_path.open("rb") as index:
            index.seek(_SEEN_AT)
            return _hides_commits_in(file, int.from_bytes(index.read(4), sys.byteorder))
    except FileNotFoundError:
        return False


def _hides_commits_in(file: BinaryIO, seen: int) -> bool:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return False
    magic, _, page, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(head)
    order = ">" if magic & 1 else "<"
    log = _Log(file, order, 65536 if page == 1 else page, (salt_1, salt_2), (sum_1, sum_2))
    if magic & ~1 != _MAGIC or _add(order, (0, 0), head[:_SUMMED]) != log.sums:
        # The head is on the disk before the first frame is begun: frames behind a broken one are not to be trusted.
        return file.seek(0, 2) > _HEADER.size + _FRAME.size
    return _commits_behind(log, seen)


def _commits_behind(log: _Log, seen: int) -> bool:
    """Whether a transaction stands behind a broken frame, whole, and written after another that was committed."""
    last = log.frame(seen) if seen else None
    sums, number = (last.sums if last else log.sums), seen
    broken = after_commit = whole = False
    others = 0
    while others < _ROUND_OVER and (frame := log.frame(number + 1)) is not None:
        number += 1
        is_ours = frame.salts == log.salts
        others = 0 if is_ours else others + 1
        follows = is_ours and _add(log.order, sums, frame.summed) == frame.sums
        broken = broken or not follows  # until then somebody is writing, or left off
        whole = broken and follows and (after_commit or whole)
        if whole and frame.is_commit:
            return True
        after_commit, sums = broken and is_ours and frame.is_commit, frame.sums
    return False


def _add(order: str, sums: tuple[int, int], data: bytes) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & _WORD
        second = (second + words[place + 1] + first) & _WORD
    return first, second
