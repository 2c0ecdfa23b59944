"""Calls of the program in this process: what it prints, and its exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rowmill.cli.main import main


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out + self.err


class Caller:
    """`rowmill …` with a data folder and a key of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.data = folder / "data"
        self.environ = {"LANG": "C.UTF-8", "ROWMILL_API_KEY": "app-echo", "ROWMILL_DATA_DIR": str(self.data)}

    def __call__(self, *args: object, **environ: str) -> Called:
        code = main([str(arg) for arg in args], {**self.environ, **environ})
        out, err = self._capsys.readouterr()
        return Called(code, out, err)
