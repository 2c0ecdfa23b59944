"""A file that stands under its name only when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


class Draft:
    """A folder beside `target` in which the file is made: same disk, so the last step is one rename."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = Path(tempfile.mkdtemp(prefix=".rowmill-", dir=target.parent))
        self.path = self.folder / ("draft" + target.suffix)

    def finish(self) -> None:
        """Puts the file under its name, replacing what was there, and sees it through to the disk."""
        _sync(self.path)
        self.path.replace(self.target)
        _sync(self.target.parent)
        self.abandon()

    def abandon(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
