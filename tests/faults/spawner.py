"""A process that has imported Rowmill and forks it on request: starting Rowmill hundreds of times would otherwise cost
more than all that the fault tests are about. What is forked is a process like any other, with sockets and files of
its own.

Reads requests as JSON lines, answers with {"started", "pid"} and later {"ended", "status"}, by the request's number.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import resource
import selectors
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

from tests.faults import failpoints
from tests.faults.tracer import ForbiddenError, Rule, Tracer

WARM = ("rowmill.__main__", "rowmill.cli.main", "uvloop", "aiohttp", "alembic.command", "tests.faults.writing")
FORBIDDEN = 77


class Spawner:
    def __init__(self) -> None:
        self._say = os.fdopen(os.dup(1), "w", buffering=1)
        self._asked = os.fdopen(os.dup(0), "rb", buffering=0)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        self._wake, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wakes = wakes
        self._numbers: dict[int, int] = {}

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._asked, selectors.EVENT_READ)
        selector.register(self._wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._asked:
                    line = self._asked.readline()
                    if not line:
                        return
                    self._start(json.loads(line))
                else:
                    os.read(self._wake, 4096)
                    self._reap()

    def _start(self, request: dict[str, Any]) -> None:
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            self._become(request, tell)
        os.close(tell)
        self._numbers[pid] = request["number"]
        with os.fdopen(told) as answer:
            runs_as = answer.read()  # a traced one has another process in between
        self._tell(started=request["number"], pid=int(runs_as or pid))

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._tell(ended=self._numbers.pop(pid), status=os.waitstatus_to_exitcode(status))

    def _tell(self, **answer: int) -> None:
        self._say.write(json.dumps(answer) + "\n")

    # ── in the child ────────────────────────────────────────────────────────────────────────────────────────────

    def _become(self, request: dict[str, Any], tell: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in (self._say.fileno(), self._asked.fileno(), self._wake, self._wakes):
            os.close(file)
        if request.get("rule"):
            self._trace(request, tell)
        os.write(tell, str(os.getpid()).encode())
        os.close(tell)
        run(request)

    def _trace(self, request: dict[str, Any], tell: int) -> None:
        tracer = Tracer(Rule(**request["rule"]))
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            tracer.child_begins()
            run(request)
        os.write(tell, str(pid).encode())
        os.close(tell)
        try:
            status = tracer.follow(pid)
        except ForbiddenError:
            os._exit(FORBIDDEN)
        if os.WIFSIGNALED(status):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))


def run(request: dict[str, Any]) -> None:
    """Does what was asked for, and ends."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(file, number)
            os.close(file)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        random.seed()
        for name, most in request.get("limits", {}).items():
            resource.setrlimit(getattr(resource, name), (most, most))
        if request.get("bound_by_modes"):
            _obey_modes()
        if request.get("tmpfs"):
            _mount_tmpfs(**request["tmpfs"])
        if request.get("failpoint"):
            failpoints.arm(request["failpoint"])
        code = _call(request)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 -- the edge of a process
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _call(request: dict[str, Any]) -> int:
    module, _, name = request["call"].partition(":")
    if request["call"] == "rowmill":
        sys.argv = ["rowmill", *request["args"]]
        return int(importlib.import_module("rowmill.cli.main").main(request["args"]) or 0)
    return int(getattr(importlib.import_module(module), name)(*request["args"]) or 0)


def _obey_modes() -> None:
    """Even root: a folder that nobody may write to is one for this process too."""
    libc, drop, effective = ctypes.CDLL(None), 24, (1, 2)
    if os.geteuid() == 0:
        for capability in effective:
            libc.prctl(drop, capability, 0, 0, 0)
        # A bounding set holds from the next program on; this one gives up what it has.
        head = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc.capget(ctypes.byref(head), ctypes.byref(sets))
        for place in range(2):
            sets[place] &= ~0b110
        libc.capset(ctypes.byref(head), ctypes.byref(sets))


def _mount_tmpfs(path: str, size: int) -> None:
    """A small disk that only this process sees; it goes with it. Without root: in a namespace where we are root."""
    libc, new_mounts, new_users, private = ctypes.CDLL(None, use_errno=True), 0x20000, 0x10000000, 1 << 18 | 1 << 14
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(new_mounts | (new_users if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if libc.mount(b"none", b"/", None, private, None):
        raise OSError(ctypes.get_errno(), "mount --make-rprivate")
    if libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={size},mode=0700".encode()):
        raise OSError(ctypes.get_errno(), "mount tmpfs")


def main() -> None:
    for name in WARM:
        importlib.import_module(name)
    Spawner().serve()


if __name__ == "__main__":
    main()
