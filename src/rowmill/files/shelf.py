"""Files by the hash of their bytes, in the data folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from rowmill.domain.errors import StoreError
from rowmill.ports.files import Kept

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{64}")
_DRAFT = ".draft"
_CODES = {
    errno.ENOSPC: "store_full",
    errno.EDQUOT: "store_full",
    errno.EROFS: "store_readonly",
    errno.EACCES: "store_readonly",
}


class FolderShelf:
    """See rowmill.ports.files.Shelf: `<folder>/<sha256>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def draft(self) -> Draft:
        return Draft(self._folder)

    def path(self, sha256: str) -> Path | None:
        path = self._folder / sha256
        # Whoever asks may have the name from a sheet.
        return path if _NAME.fullmatch(sha256) and path.is_file() else None

    def copy(self, sha256: str, target: Path) -> bool:
        """One that has the size and the time of ours was made by us, and is the same."""
        source = self.path(sha256)
        if source is None:
            return False
        ours = source.stat()
        if not _same(target, ours):
            draft = target.with_name(f".{secrets.token_hex(4)}{_DRAFT}")
            try:
                shutil.copyfile(source, draft)
                os.utime(draft, ns=(ours.st_atime_ns, ours.st_mtime_ns))
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
        return True

    def remove(self, sha256: str) -> None:
        if (path := self.path(sha256)) is not None:
            path.unlink(missing_ok=True)

    def sweep(self, needed: Collection[str], older_than: float) -> int:
        count = 0
        for entry in self._entries():
            # One that goes meanwhile was somebody else's draft.
            with suppress(FileNotFoundError):
                ours = _NAME.fullmatch(entry.name) or entry.name.endswith(_DRAFT)
                if ours and entry.name not in needed and entry.stat().st_mtime < older_than:
                    (self._folder / entry.name).unlink()
                    count += 1
        return count

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self._folder) as entries:
                yield from entries
        except FileNotFoundError:
            return


def _same(target: Path, ours: os.stat_result) -> bool:
    try:
        there = target.stat()
    except FileNotFoundError:
        return False
    return (there.st_size, there.st_mtime_ns) == (ours.st_size, ours.st_mtime_ns)


class Draft:
    """See rowmill.ports.files.ShelfDraft."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{secrets.token_hex(8)}{_DRAFT}"
        self._hash = hashlib.sha256()
        self.size = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, block: bytes) -> None:
        try:
            self._file.write(block)
        except OSError as error:
            raise self._refusal(error) from error
        self._hash.update(block)
        self.size += len(block)

    def keep(self) -> Kept:
        name = self._hash.hexdigest()
        path = self._folder / name
        try:
            if path.is_file() and path.stat().st_size == self.size:
                # Needed anew: a sweep that goes by age must not take it.
                now = time.time()
                os.utime(path, (now, now))
                self.abandon()
                return Kept(name, self.size, new=False)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            self.abandon()
            raise self._refusal(error) from error
        return Kept(name, self.size, new=True)

    def abandon(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> StoreError:
        code = _CODES.get(error.errno or 0, "store_io")
        return StoreError(code, path=str(self._folder), detail=error.strerror or "")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
