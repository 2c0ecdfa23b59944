"""Opens what `--files` names. Raises UsageError: files_missing, files_kind_unknown, files_unreadable,
files_too_many, files_zip_damaged, files_zip_size, files_zip_ratio, files_zip_encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.errors import UsageError
from rowmill.files.archive import Archive
from rowmill.files.folder import Folder
from rowmill.files.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.ports.files import FileSource

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


def open_source(path: Path, limits: Limits | None = None) -> FileSource:
    """A folder or a zip, by what it is and not by its name."""
    limits = limits or Limits()
    try:
        if path.is_dir():
            return Folder(path, limits)
        with path.open("rb") as file:
            start = file.read(4)
        if start not in _ZIP_STARTS:
            raise UsageError("files_kind_unknown", path=str(path))
        return Archive(path, limits)
    except FileNotFoundError:
        raise UsageError("files_missing", path=str(path)) from None
    except OSError as error:
        raise UsageError("files_unreadable", path=str(path), detail=error.strerror or "") from error
