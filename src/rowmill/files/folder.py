"""The files of a folder, with those of the folders in it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rowmill.domain.errors import UsageError
from rowmill.files.names import decoded, is_litter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from rowmill.files.limits import Limits


class Folder:
    """See rowmill.ports.files.FileSource. Links that lead out of the folder are not followed: whoever packed it could
    have any file of this computer sent."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.place = path.name or str(path)
        self._root = path.resolve()
        self._paths: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        for name, full, size in self._walk():
            self._paths[name], self.sizes[name] = full, size
            if len(self.sizes) > limits.most_files:
                raise UsageError("files_too_many", path=str(path), limit=limits.most_files)

    def _walk(self) -> Iterator[tuple[str, str, int]]:
        for folder, _, names in os.walk(self._root, onerror=self._refuse):
            for name in names:
                full = os.path.join(folder, name)  # noqa: PTH118 -- half a million Path objects would be slow
                relative = decoded(os.fsencode(os.path.relpath(full, self._root))).replace(os.sep, "/")
                size = self._size(full)
                if size is not None and not is_litter(relative):
                    yield relative, full, size

    def _refuse(self, error: OSError) -> None:
        if error.filename == str(self._root):
            raise UsageError("files_unreadable", path=str(self._root), detail=error.strerror or "")

    def _size(self, full: str) -> int | None:
        """None for what is no file of this folder."""
        try:
            known = os.lstat(full)
            if stat.S_ISLNK(known.st_mode):
                if not Path(full).resolve().is_relative_to(self._root):
                    return None
                known = os.stat(full)  # noqa: PTH116 -- as above
        except OSError:
            return None
        return known.st_size if stat.S_ISREG(known.st_mode) else None

    def open(self, name: str) -> BinaryIO:
        file = Path(self._paths[name]).open("rb")  # noqa: SIM115 -- the caller closes it
        if os.fstat(file.fileno()).st_size != self.sizes[name]:
            file.close()
            raise OSError(errno.EIO, "it changed meanwhile")
        return file

    def close(self) -> None:
        """Nothing stays open."""
