"""The exception tree.

RowmillError                    code + params; the text is made by rowmill.texts from the code
├── UsageError                  what was asked for cannot be done as asked (exit 2)
│   ├── SheetError              the sheet cannot be read
│   ├── MappingError            columns and fields do not fit together
│   └── AppError                the app cannot be used: wrong address, key, mode, not published
├── IllegalMoveError            a state change that the table of moves does not allow (a bug of ours)
├── StoreError                  the database refuses: full, locked, damaged, too new
│   └── FencedError             another runner has taken this data folder over
└── DifyFailureError            one call to Dify failed; carries the Failure that rowmill.domain.verdict judges
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowmill.domain.verdict import Failure

Param = str | int | float | tuple[str, ...] | None


class RowmillError(Exception):
    """`code` names the text `error.<code>`; `params` fill it. Never carries a secret."""

    def __init__(self, code: str, **params: Param) -> None:
        super().__init__(code, params)
        self.code = code
        self.params = params

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.params.items())
        return f"{self.code}({inside})"


class UsageError(RowmillError):
    """What was asked for cannot be done as asked."""


class SheetError(UsageError):
    """The sheet cannot be read."""


class MappingError(UsageError):
    """Columns and fields do not fit together."""


class AppError(UsageError):
    """The app cannot be used as it is."""


class IllegalMoveError(RowmillError):
    """A state change outside the table of moves."""


class StoreError(RowmillError):
    """The database refuses."""


class FencedError(StoreError):
    """Another runner has taken this data folder over: this one must stop writing and sending."""


class DifyFailureError(RowmillError):
    """One call to Dify failed. Whether it may have been billed is in `failure.kind`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code, status=failure.status, message=failure.message)
        self.failure = failure


# The text `detail.<name>` says what each means.
_OS_DETAILS = {
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "read_only",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.ENOENT: "not_there",
    errno.ENOTDIR: "not_a_folder",
    errno.EEXIST: "not_a_folder",
    errno.EISDIR: "is_a_folder",
    errno.ENAMETOOLONG: "name_too_long",
    errno.EADDRINUSE: "address_in_use",
    errno.EADDRNOTAVAIL: "address_not_here",
}


def os_detail(error: OSError) -> str:
    """What the operating system refuses: the name of a text `detail.<name>`, else its own words."""
    return _OS_DETAILS.get(error.errno or 0) or error.strerror or type(error).__name__
