"""All settings: one table, read in one place, from ROWMILL_* in the environment. Unknown names are refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from rowmill.domain.errors import UsageError
from rowmill.domain.pace import ResponseMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "ROWMILL_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table. `help` is the text `setting.<name>`."""

    name: str
    read: Callable[[str], Any]
    default: Any
    secret: bool = False


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:  # noqa: PLR2004
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1000:  # noqa: PLR2004
        raise ValueError(text)
    return number


def _lanes(text: str) -> int:
    if not (number := _count(text)):
        raise ValueError(text)
    return number


def _mode(text: str) -> str:
    return ResponseMode(text).value


TABLE: tuple[Setting, ...] = (
    Setting("data_dir", Path, None),
    Setting("lang", str, None),
    Setting("api_key", str, None, secret=True),
    Setting("concurrency", _lanes, None),
    Setting("most", _lanes, 50),
    Setting("server_cap", _lanes, None),
    Setting("response_mode", _mode, "auto"),
    Setting("retries", _count, 1),
    Setting("row_timeout", _seconds, 1800.0),
    Setting("lost_window", _seconds, 300.0),
    Setting("secret_key", str, None, secret=True),
    Setting("secret_key_file", Path, None),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The values; see TABLE for defaults and the reference page for what each means."""

    data_dir: Path
    lang: str | None
    api_key: str | None
    concurrency: int | None
    most: int
    server_cap: int | None
    response_mode: str
    retries: int
    row_timeout: float
    lost_window: float
    secret_key: str | None
    secret_key_file: Path | None

    def __repr__(self) -> str:
        secrets = {setting.name for setting in TABLE if setting.secret}
        shown = (f"{f.name}={'***' if f.name in secrets else getattr(self, f.name)!r}" for f in fields(self))
        return f"Settings({', '.join(shown)})"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Raises UsageError for an unknown name or a value that does not fit."""
    known = {PREFIX + setting.name.upper(): setting for setting in TABLE}
    values: dict[str, Any] = {setting.name: setting.default for setting in TABLE}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            raise UsageError("setting_unknown", name=name, known=tuple(sorted(known)))
        if text:
            values[known[name].name] = _read(known[name], name, text)
    values["data_dir"] = values["data_dir"] or Path(platformdirs.user_data_dir("rowmill", appauthor=False))
    return Settings(**values)


def _read(setting: Setting, name: str, text: str) -> Any:
    try:
        return setting.read(text)
    except ValueError:
        raise UsageError("setting_wrong", name=name, value="***" if setting.secret else text) from None
