"""Real processes for fault tests: `rowmill` itself, and a fake Dify that outlives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

KEY = "app-echo"


def rowmill(*args: object, cwd: Path, key: str | None = KEY, **env: str) -> subprocess.Popen[str]:
    """`rowmill …` as a process of its own, with a clean environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROWMILL_")}
    environ |= {"LANG": "C.UTF-8", **env}
    if key is not None:
        environ["ROWMILL_API_KEY"] = key
    command = [sys.executable, "-m", "rowmill", *map(str, args)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    """Exit code, standard output and error of a process that ends by itself."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def answer(process: subprocess.Popen[str], timeout: float = 120) -> dict:
    """What a process called with --json printed."""
    code, out, err = finish(process, timeout)
    assert out.strip(), (code, err)
    return json.loads(out)


def batches(data: Path, cwd: Path) -> list[dict]:
    return json.loads(finish(rowmill("batches", "--json", "--data-dir", data, cwd=cwd))[1])


def lines(path: Path) -> list[dict]:
    """The rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_sheet(path: Path, rows: int) -> None:
    """A csv for the echo app whose `query` tells the rows apart."""
    path.write_text("query,note\n" + "".join(f"row {i},note {i}\n" for i in range(1, rows + 1)), "utf-8")


def paid_twice(runs: list) -> dict[str, int]:
    """Rows with more than one run in the ledger."""
    return {query: n for query, n in Counter(run.inputs["query"] for run in runs).items() if n > 1}
