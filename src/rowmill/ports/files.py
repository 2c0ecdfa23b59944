"""What the workbench and the engine need of files: those that sheets name, and those that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """A file on the shelf. `new`: it was not there before."""

    sha256: str
    size: int
    new: bool


class Readable(Protocol):
    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end. Raises OSError."""
        ...

    def close(self) -> None: ...


class FileSource(Protocol):
    """A folder or a zip whose files a sheet may name. Names are keys only: none is ever made a path for writing."""

    @property
    def place(self) -> str:
        """The folder or zip, as messages name it."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Relative path, with `/`, -> bytes."""
        ...

    def open(self, name: str) -> Readable:
        """The bytes of one of them. Raises OSError, also while it is read."""
        ...

    def close(self) -> None: ...


class ShelfDraft(Protocol):
    """A file on its way to the shelf."""

    size: int

    def write(self, block: bytes) -> None:
        """Raises StoreError."""
        ...

    def keep(self) -> Kept:
        """On the disk, whole, under its hash when it returns. Raises StoreError."""
        ...

    def abandon(self) -> None: ...


class Shelf(Protocol):
    """Files by the SHA-256 of their bytes: each once, never changed. Everything may be called from worker threads."""

    def draft(self) -> ShelfDraft:
        """Begin a file. It ends with `keep` or `abandon`."""
        ...

    def path(self, sha256: str) -> Path | None:
        """Where it is, for reading; None if it is not there."""
        ...

    def copy(self, sha256: str, target: Path) -> bool:
        """Make `target` the same file, unless it is already; False if there is no such file. Raises OSError."""
        ...

    def remove(self, sha256: str) -> None: ...

    def sweep(self, needed: Collection[str], older_than: float) -> int:
        """Remove what is not needed and was put there before that moment (Unix seconds); returns how many."""
        ...
