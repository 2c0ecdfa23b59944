"""Real processes for fault tests: `rowmill` itself, and a fake Dify that outlives it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.spawner import FORBIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.tracer import Rule

# Nothing that Rowmill ever prints or keeps may hold it.
KEY = "app-canary-5b1f0c7e9d"
ROOT = Path(__file__).parents[2]
TOO_LONG = 180.0


@dataclass
class Proc:
    """A process that the spawner made. `code` is negative for a signal, as in subprocess."""

    pid: int
    folder: Path
    ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    @property
    def out(self) -> str:
        return _text(self.folder / "out")

    @property
    def err(self) -> str:
        return _text(self.folder / "err")

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait(20)

    def wait(self, timeout: float = TOO_LONG) -> int:
        """The exit code."""
        if not self.ended.wait(timeout):
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running after {timeout} s:\n{self.out}\n{self.err}")
        assert self.code is not None
        if self.code == FORBIDDEN and not self.out:
            pytest.fail(
                "this machine forbids ptrace: faults cannot be put into system calls (kernel.yama.ptrace_scope?)"
            )
        return self.code

    def answer(self, timeout: float = TOO_LONG) -> dict[str, Any]:
        """What it printed with --json."""
        code = self.wait(timeout)
        assert self.out.strip(), (code, self.err)
        return json.loads(self.out)

    def peak_memory(self) -> float:
        """Most megabytes that it held so far; 0 when it has gone."""
        for line in _text(Path(f"/proc/{self.pid}/status")).splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


class Spawner:
    """Starts processes by way of tests.faults.spawner, one per test session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.spawner"],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._folder = Path(tempfile.mkdtemp(prefix="rowmill-faults-"))
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._pids: dict[int, int] = {}
        self._procs: dict[int, Proc] = {}
        self._ends: dict[int, int] = {}
        self._count = 0
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self.close)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._news:
                if "started" in said:
                    self._pids[said["started"]] = said["pid"]
                else:
                    self._ends[said["ended"]] = said["status"]
                    self._note_end(said["ended"])
                self._news.notify_all()

    def _note_end(self, number: int) -> None:
        proc = self._procs.get(number)
        if proc is not None and number in self._ends:
            proc.code = self._ends[number]
            proc.ended.set()

    def start(self, call: str, args: list[Any], **request: Any) -> Proc:
        with self._lock:
            self._count += 1
            number = self._count
            folder = self._folder / str(number)
            folder.mkdir()
            request |= {"number": number, "call": call, "args": args}
            request |= {"out": str(folder / "out"), "err": str(folder / "err")}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            with self._news:
                assert self._news.wait_for(lambda: number in self._pids, 60), "the spawner does not answer"
                proc = self._procs[number] = Proc(self._pids[number], folder)
                self._note_end(number)
        return proc

    def close(self) -> None:
        for proc in self._procs.values():
            proc.send(signal.SIGKILL)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)


_spawner: list[Spawner] = []


def spawn(
    call: str,
    *args: object,
    cwd: Path,
    rule: Rule | None = None,
    failpoint: str | None = None,
    limits: dict[str, int] | None = None,
    bound_by_modes: bool = False,
    tmpfs: dict[str, Any] | None = None,
    key: str | None = KEY,
    **env: str,
) -> Proc:
    """A process that calls `module:function`, under faults: a rule for its system calls, a failpoint, resource limits;
    `bound_by_modes`: that must keep to files' modes even if we are root; `tmpfs`: on a small disk of its own (`path`,
    `size` in bytes)."""
    if not _spawner:
        _spawner.append(Spawner())
    environ = clean_environment() | env
    if key is not None:
        environ["ROWMILL_API_KEY"] = key
    return _spawner[0].start(
        call,
        [arg if isinstance(arg, int) else str(arg) for arg in args],
        cwd=str(cwd),
        env=environ,
        rule=rule.to_json() if rule else None,
        failpoint=failpoint,
        limits=limits or {},
        bound_by_modes=bound_by_modes,
        tmpfs=tmpfs,
    )


def rowmill(*args: object, cwd: Path, **how: Any) -> Proc:
    """`rowmill …` as a process of its own, with a clean environment."""
    return spawn("rowmill", *map(str, args), cwd=cwd, **how)


def clean_environment() -> dict[str, str]:
    """Nothing of Rowmill's, and nothing that would write files under a fault: coverage."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("ROWMILL_", "COVERAGE_", "COV_"))}
    return mine | {"LANG": "C.UTF-8"}


def batches(data: Path, cwd: Path) -> list[dict[str, Any]]:
    proc = rowmill("batches", "--json", "--data-dir", data, cwd=cwd)
    assert proc.wait() == 0, proc.err
    return json.loads(proc.out)


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_sheet(path: Path, texts: int | list[str]) -> None:
    """A csv for the echo app whose `query` tells the rows apart: `row 1` …, or these texts."""
    texts = [f"row {i}" for i in range(1, texts + 1)] if isinstance(texts, int) else texts
    path.write_text("query,note\n" + "".join(f"{text},note {i}\n" for i, text in enumerate(texts, 1)), "utf-8")


def until(sign: Callable[[], Any], proc: Proc | None = None, timeout: float = 60.0, every: float = 0.005) -> bool:
    """Wait for a sign from another process; False if `proc` ended first."""
    deadline, tick = time.monotonic() + timeout, threading.Event()
    while not sign():
        if proc is not None and not proc.running:
            return bool(sign())
        assert time.monotonic() < deadline, f"waited {timeout} s in vain" + (f":\n{proc.err}" if proc else "")
        tick.wait(every)
    return True
