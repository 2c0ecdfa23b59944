"""What every command shares: the language, whether people or programs read, and where things are printed."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console

from rowmill.domain.problem import Problem
from rowmill.texts import Speech

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rowmill.domain.errors import RowmillError

OK = 0
SOME_FAILED = 1
BAD_USE = 2
NOT_WRITTEN = 3
INTERRUPTED = 130


@dataclass(slots=True)
class Session:
    """One call of the program. People read `out` and `side` (messages, progress); programs only standard output."""

    say: Speech
    environ: Mapping[str, str]
    json: bool = False
    data_dir: Path | None = None
    """as typed: advice that leaves it out would not work"""
    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    side: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer a question."""
        return not self.json and sys.stdin is not None and sys.stdin.isatty()

    def tell(self, code: str, /, **params: object) -> None:
        """A message for people; beside the results, never among them."""
        if not self.json:
            _print(self.side, self.say(code, **params))

    def warn(self, code: str, /, **params: object) -> None:
        """A message that matters to programs' authors too."""
        _print(self.side, self.say("warning", text=self.say(code, **params)), style="yellow")

    def show(self, text: str = "") -> None:
        """A line of the answer."""
        if not self.json:
            _print(self.out, text)

    def answer(self, value: Any) -> None:
        """The answer for programs: one JSON value."""
        if self.json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def fail(self, error: RowmillError, **more: Any) -> None:
        """Say what was wrong and what to do."""
        text = self.error_text(error)
        if self.json:
            self.answer({"error": {"code": error.code, "message": text, "params": error.params}, **more})
        else:
            _print(self.side, self.say("failed", text=text), style="red")

    def error_text(self, error: RowmillError) -> str:
        params = {name: self._word(name, value) for name, value in error.params.items()}
        hints = (self.say(f"hint.{name}", **params) for name in params if self.say.knows(f"hint.{name}"))
        return " ".join([self.say(f"error.{error.code}", **params), *hints])

    def _word(self, name: str, value: object) -> object:
        """A parameter as people read it."""
        if name in ("detail", "reason") and self.say.knows(f"detail.{value}"):
            return self.say(f"detail.{value}")
        if name == "since" and isinstance(value, float):
            return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
        return value

    def problem_text(self, problem: Problem) -> str:
        """Where and what, on one line."""
        text = self.say(f"problem.{problem.code}", **problem.params)
        if problem.row is not None:
            return self.say("problem_at", row=problem.row, letter=problem.letter, column=problem.column, text=text)
        return self.say("problem_of", field=problem.variable, text=text) if problem.variable else text

    def repair_text(self, problem: Problem) -> str:
        return self.say(f"repair.{problem.code}", **problem.params)


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Lines end between words, where somebody looks; but commands and long addresses stay whole, to be copied."""
    to_copy = "rowmill " in text or any(cell_len(word) >= console.width for word in text.split())
    console.print(text, style=style, markup=False, soft_wrap=to_copy or not console.is_terminal)
