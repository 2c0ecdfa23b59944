"""Gets uv on a bare machine: prints the path of a uv that fits uv.lock. Needs only Python's standard library.

A uv on PATH is used; else the wheel that uv.lock names for this machine is fetched, checked against its hash, and
unpacked into .uv/. Debian's python3 has neither pip nor ensurepip, so neither is needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import stat
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".uv"
TRIES = 3


def main() -> int:
    """Print the path of uv."""
    if sys.version_info < (3, 11):  # noqa: UP036 -- this script is what finds out
        print("Rowmill needs Python 3.11 or newer.", file=sys.stderr)
        return 1
    print(find() or fetch())
    return 0


def find() -> str | None:
    """A uv that runs."""
    for candidate in (FOLDER / "uv", shutil.which("uv")):
        if candidate and Path(candidate).exists():
            answer = subprocess.run([candidate, "--version"], capture_output=True, check=False)
            if answer.returncode == 0:
                return str(candidate)
    return None


def fetch() -> str:
    """The wheel of uv.lock, unpacked."""
    wheel = pick(tomllib.loads((ROOT / "uv.lock").read_text("utf-8")))
    print(f"Fetching {wheel['url'].rsplit('/', 1)[-1]} …", file=sys.stderr)
    content = download(wheel["url"])
    if hashlib.sha256(content).hexdigest() != wheel["hash"].removeprefix("sha256:"):
        sys.exit("The uv wheel does not have the hash of uv.lock.")
    FOLDER.mkdir(exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        part = FOLDER / f"uv.{os.getpid()}"
        part.write_bytes(archive.read(name))
    part.chmod(part.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    part.replace(FOLDER / "uv")
    return str(FOLDER / "uv")


def download(url: str) -> bytes:
    """The bytes of a URL, tried a few times."""
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=180) as answer:
                return answer.read()
        except OSError as error:
            if attempt == TRIES:
                sys.exit(f"Could not fetch uv: {error}. Install uv by hand and put it on PATH.")
    raise AssertionError


def pick(lock: dict) -> dict:
    """The wheel for this machine."""
    wheels = next(package for package in lock["package"] if package["name"] == "uv")["wheels"]
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if sys.platform == "linux" else "arm64"}.get(machine, machine)
    if sys.platform == "linux":
        kinds = ("musllinux",) if Path("/etc/alpine-release").exists() else ("manylinux",)
    else:
        kinds = ("macosx",) if sys.platform == "darwin" else ("win",)
    for wheel in wheels:
        name = wheel["url"].rsplit("/", 1)[-1]
        if any(kind in name for kind in kinds) and name.endswith(f"{machine}.whl"):
            return wheel
    sys.exit(f"uv.lock has no uv wheel for {sys.platform} {machine}. Install uv by hand and put it on PATH.")


if __name__ == "__main__":
    sys.exit(main())
