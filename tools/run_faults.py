"""`make faults`: the long form of the fault matrix, and the page with its figures. Arguments go to pytest."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools import faults_page  # noqa: E402 -- found from the folder of the project

SHORT = "--short"


def main(args: list[str]) -> int:
    """pytest's exit code."""
    form = "short" if SHORT in args else "long"
    more = [arg for arg in args if arg != SHORT]
    with tempfile.TemporaryDirectory(prefix="rowmill-figures-") as folder:
        start = time.monotonic()
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "worksteal",
            f"--junitxml={report}",
            "--timeout=0",
        ]
        environ = {**os.environ, "FAULTS_FORM": form, "FAULTS_FIGURES": folder}
        code = subprocess.run([*command, "tests/faults", *more], cwd=ROOT, env=environ, check=False).returncode
        lines = [json.loads(line) for file in Path(folder).glob("*.jsonl") for line in file.read_text().splitlines()]
        data = _data(lines, report, form, time.monotonic() - start)
    if more:
        print("Only some of the tests ran: the page stays as it is.")
    else:
        faults_page.DATA.parent.mkdir(exist_ok=True)
        faults_page.DATA.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", "utf-8")
        faults_page.main()
    print(faults_page.render(data))
    return code


def _data(lines: list[dict[str, Any]], report: Path, form: str, seconds: float) -> dict[str, Any]:
    tests, known, failed = _results(report)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "form": form,
        "minutes": round(seconds / 60, 1),
        "machine": _machine(),
        "tests": tests,
        "open": known,
        "failed": failed,
        "rows": faults_page.merge(lines),
    }


def _results(report: Path) -> tuple[dict[str, int], list[dict[str, str]], list[str]]:
    """(counts, tests that are expected to fail and why, tests that failed)"""
    counts = {"passed": 0, "failed": 0, "expected to fail": 0, "skipped": 0}
    known, failed = [], []
    for case in ET.parse(report).iter("testcase"):
        name = f"{str(case.get('classname')).rpartition('.')[2]}.py::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
            failed.append(name)
        elif skipped is not None and skipped.get("type") == "pytest.xfail":
            counts["expected to fail"] += 1
            known.append({"test": name, "reason": str(skipped.get("message"))})
        elif skipped is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts, known, failed


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores (not idle: the tests share them with others), {memory:.0f} GB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "?"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
