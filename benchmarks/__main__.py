"""`make bench`: the figures of the README, measured in one run on this machine.

Rowmill and the server are processes of their own, as in real use; ratios compare figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1024  # ru_maxrss is in KiB


@dataclass
class Measured:
    """One `rowmill run`: its own answer, CPU seconds and the most memory that it held."""

    answer: dict
    cpu: float
    peak: float


@contextmanager
def server(latency: int, hold: int) -> Iterator[str]:
    """benchmarks/server.py in its own process; yields its base URL."""
    port = 18000 + os.getpid() % 1000
    command = [sys.executable, "-m", "benchmarks.server", str(port), str(latency), str(hold)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str) -> None:
    request = urllib.request.Request(url + "/info", headers={"Authorization": "Bearer app-echo"})
    for _ in range(200):
        try:
            urllib.request.urlopen(request, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server did not start")


def rowmill_run(url: str, folder: Path, rows: int, lanes: int, ending: str = "jsonl") -> Measured:
    """Run a csv of so many rows."""
    sheet = folder / f"rows-{rows}.csv"
    with sheet.open("w", encoding="utf-8") as file:
        file.write("query,note\n")
        file.writelines(f"row {i},a note of some length for row number {i}\n" for i in range(rows))
    data = folder / f"data-{rows}-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "rowmill", "run", sheet, "--base-url", url, "-o", folder / f"out.{ending}"]
    command += ["--data-dir", data, "--json", "--new", "-c", lanes]
    environ = {**os.environ, "ROWMILL_API_KEY": "app-echo"}
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    answer = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"the run failed: {answer}")
    return Measured(answer, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEGABYTE)


def bare_run(url: str, rows: int, lanes: int) -> float:
    """Seconds that a bare loop takes for the same."""
    command = [sys.executable, "-m", "benchmarks.bare", url, str(rows), str(lanes)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_speed(folder: Path, rows: int) -> None:
    with server(0, 0) as url:
        small = rowmill_run(url, folder, rows // 10, 50)
        large = rowmill_run(url, folder, rows, 50)
    seconds = large.answer["seconds"]
    cpu = (large.cpu - small.cpu) / (rows - rows // 10)
    print(f"0 ms per run: {rows / seconds:.0f} rows/s, {1000 * cpu:.2f} ms CPU per row ({rows} rows, 50 in flight)")


def measure_makespan(folder: Path, rows: int, hold: int) -> None:
    lanes, latency = 50, 50
    with server(latency, hold) as url:
        run = rowmill_run(url, folder, rows, lanes)
        bare = bare_run(url, rows, lanes)
    ideal, seconds = rows * latency / 1000 / lanes, run.answer["seconds"]
    print(
        f"{rows} rows x {latency} ms x {lanes} in flight, streams held {hold} ms more: {seconds:.2f} s, "
        f"ideal {ideal:.2f} s, ratio {seconds / ideal:.3f} (goal <= 1.05); "
        f"bare aiohttp loop that keeps nothing {bare:.2f} s, ratio to it {seconds / bare:.3f}"
    )


def measure_memory(folder: Path, few: int, many: int) -> None:
    with server(0, 0) as url:
        for ending in ("jsonl", "xlsx"):
            small, large = (rowmill_run(url, folder, rows, 50, ending) for rows in (few, many))
            print(
                f"peak memory with {ending} results: {few} rows {small.peak:.0f} MB, {many} rows {large.peak:.0f} MB: "
                f"grows by {large.peak - small.peak:.0f} MB (goal < 60)"
            )


def measure_recovery(folder: Path, rows: int) -> None:
    """From the start of the process until the first run is asked for, in a large batch that a kill has left behind."""
    with server(0, 0) as url:
        sheet = folder / "large.csv"
        with sheet.open("w", encoding="utf-8") as file:
            file.write("query,note\n")
            file.writelines(f"row {i},a note of some length for row number {i}\n" for i in range(rows))
        data, environ = folder / "data-large", {**os.environ, "ROWMILL_API_KEY": "app-echo"}
        command = [sys.executable, "-m", "rowmill", "run", str(sheet), "--base-url", url, "-o", str(folder / "l.jsonl")]
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--data-dir", str(data), "--json"], stdout=subprocess.DEVNULL, env=environ
        )
        imported = wait_for_first(url)
        process.kill()
        process.wait()
        ask_first(url)
        again = time.monotonic()
        resume = [sys.executable, "-m", "rowmill", "resume", "--all", "--data-dir", str(data), "--json"]
        process = subprocess.Popen(resume, stdout=subprocess.DEVNULL, env=environ)
        first = wait_for_first(url)
        process.kill()
        process.wait()
    print(
        f"{rows} rows: read, checked and stored in {imported - started:.1f} s; after kill -9 the first new run "
        f"is asked for {first - again:.1f} s after the start (goal <= 10 s)"
    )


def ask_first(url: str) -> float | None:
    """When a run was asked for, the first since this was asked."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/first", timeout=10) as answer:
        return json.loads(answer.read())["first"]


def wait_for_first(url: str) -> float:
    """The moment at which a run was asked for."""
    for _ in range(6000):
        first = ask_first(url)
        if first is not None:
            return first
        time.sleep(0.1)
    sys.exit("no run was asked for")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", choices=["speed", "makespan", "memory", "recovery", "pace"])
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    if options.only == "pace":  # in virtual time, with options of its own: python -m benchmarks.pace --help
        sys.exit(subprocess.run([sys.executable, "-m", "benchmarks.pace"], check=False).returncode)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only in (None, "speed"):
            measure_speed(folder, options.rows)
        if options.only in (None, "makespan"):
            for hold in (0, 1000):
                measure_makespan(folder, options.rows, hold)
        if options.only in (None, "memory"):
            measure_memory(folder, options.rows // 10, options.rows * 10)
        if options.only in (None, "recovery"):
            measure_recovery(folder, options.rows * 100)


if __name__ == "__main__":
    main()
