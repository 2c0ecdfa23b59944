"""System calls of a child, made to fail or to be its last: what `strace -e inject` does, in Python alone, so that the
fault tests need no package.

A seccomp filter stops the child at the named calls only; all others run at full speed. Linux on x86_64, and aarch64
by the book (not tried on one).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import random
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TRACEME, CONT, KILL_WITH_ME, SYSCALL, SETOPTIONS, GETREGSET, SETREGSET = 0, 7, 0x100000, 24, 0x4200, 0x4204, 0x4205
# clone, fork, vfork, exec, seccomp, and a mark on stops at the end of a call
OPTIONS = KILL_WITH_ME | 0x02 | 0x04 | 0x08 | 0x10 | 0x80 | 0x01
SECCOMP_EVENT, AT_END, WALL = 7, signal.SIGTRAP | 0x80, 0x40000000
REGISTERS, ARM_CALL = 1, 0x404
_X86 = {"pwrite64": 18, "fsync": 74, "fdatasync": 75, "ftruncate": 77}
_ARM = {"pwrite64": 68, "fsync": 82, "fdatasync": 83, "ftruncate": 46}
_IS_X86 = platform.machine() == "x86_64"
NUMBERS = _X86 if _IS_X86 else _ARM
NAMES = {number: name for name, number in NUMBERS.items()}
# Places in the registers: number of the call, its answer, fd, buffer, count, offset.
_NUMBER, _ANSWER, _FD, _BUFFER, _COUNT, _OFFSET = (15, 10, 14, 13, 12, 7) if _IS_X86 else (8, 0, 0, 1, 2, 3)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Rule:
    """What happens at calls number `first` … `last` (None: for ever) among those on files whose path contains `path`.

    `deed`: "count" nothing; "kill" before the call; "torn" a write's first half, then death; "power" death, and with
    it all that was not synced, but for a share `survive` of the writes; or the name of an errno, which the call gives
    back without being done. `meanwhile`: only while this file exists. `report`: a file for {"seen", "struck"}.
    """

    deed: str
    calls: tuple[str, ...] = ("pwrite64",)
    path: str = "rowmill.db"
    first: int = 1
    last: int | None = None
    meanwhile: str | None = None
    report: str | None = None
    survive: float = 0.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ForbiddenError(Exception):
    """The system lets nobody trace, not even their own children."""


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class _Disk:
    """What the disk holds for sure, for files that were written since the start."""

    synced: dict[Path, bytes] = field(default_factory=dict)
    loose: dict[Path, list[tuple[int, bytes | None]]] = field(default_factory=dict)
    """writes (offset, data) and cuts (length, None) since the last sync"""

    def note(self, call: str, path: Path, offset: int, data: bytes | None) -> None:
        if call in ("fsync", "fdatasync"):
            self.synced[path], self.loose[path] = path.read_bytes(), []
            return
        if path not in self.synced:
            self.synced[path], self.loose[path] = path.read_bytes(), []
        self.loose[path].append((offset, data))

    def lose(self, survive: float, seed: int) -> None:
        """The power is gone."""
        chance = random.Random(seed)
        for path, content in self.synced.items():
            if not path.exists():
                continue
            kept = bytearray(content)
            for offset, data in self.loose[path]:
                if chance.random() >= survive:
                    continue
                if data is None:
                    del kept[offset:]
                else:
                    kept.extend(b"\0" * (offset + len(data) - len(kept)))
                    kept[offset : offset + len(data)] = data
            if path.name.startswith("sent-"):
                _boot_again(kept)
            path.write_bytes(kept)
            path.with_name(path.name.replace("-wal", "") + "-shm").unlink(missing_ok=True)


def _boot_again(marks: bytearray) -> None:
    """Memory is lost only by a boot, and the next one has another id: the marks' header then names a former one. The
    machine under the test goes on, so the name is changed in the file instead."""
    known = BOOT_ID.read_text().strip().encode()
    at = marks.find(known)
    if at >= 0:
        marks[at : at + len(known)] = b"0" * len(known)


class Tracer:
    """Runs one child under one rule."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._disk = _Disk() if rule.deed == "power" else None
        self._calls = {NUMBERS[name] for name in rule.calls}
        self._watched = set(NUMBERS.values()) if self._disk else self._calls
        self._known: set[int] = set()
        self._seen = self._struck = 0

    def child_begins(self) -> None:
        """In the child, first thing."""
        if _ptrace(TRACEME, 0) < 0:
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        _filter(self._watched)

    def follow(self, pid: int) -> int:
        """In the parent: until the child's end; its wait status."""
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise ForbiddenError("ptrace is forbidden on this machine")
        self._known.add(pid)
        _ptrace(SETOPTIONS, pid, data=OPTIONS)
        self._go_on(pid)
        while True:
            who, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                self._stopped(who, status)
            elif who == pid:
                self._end()
                return status

    def _end(self) -> None:
        if self._disk is not None and self._struck:
            self._disk.lose(self._rule.survive, self._rule.seed)
        if self._rule.report:
            Path(self._rule.report).write_text(json.dumps({"seen": self._seen, "struck": self._struck}))

    def _stopped(self, who: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if event == SECCOMP_EVENT:
            self._at_call(who)
        elif number == AT_END:
            os.kill(who, signal.SIGKILL)  # half a write is done
        elif event or (number == signal.SIGSTOP and who not in self._known):
            self._go_on(who)
        else:
            self._go_on(who, number)
        self._known.add(who)

    def _go_on(self, who: int, number: int = 0, how: int = CONT) -> None:
        _ptrace(how, who, data=number)

    def _at_call(self, who: int) -> None:
        registers = _Registers(who)
        call, path = NAMES[registers[_NUMBER]], _path_of(who, registers[_FD])
        if not self._concerns(path):
            self._go_on(who)
        elif registers[_NUMBER] in self._calls and self._strikes():
            self._struck += 1
            self._strike(who, registers, call)
        else:
            self._note(who, registers, call, path)
            self._go_on(who)

    def _concerns(self, path: str) -> bool:
        return self._rule.path in path or (self._disk is not None and path.endswith(".marks"))

    def _strikes(self) -> bool:
        rule = self._rule
        if rule.meanwhile is not None and not Path(rule.meanwhile).exists():
            return False
        self._seen += 1
        return rule.deed != "count" and rule.first <= self._seen <= (rule.last or self._seen)

    def _note(self, who: int, registers: _Registers, call: str, path: str) -> None:
        if self._disk is None:
            return
        if call == "pwrite64":
            data = _peek(who, registers[_BUFFER], registers[_COUNT])
            self._disk.note(call, Path(path), registers[_OFFSET], data)
        else:
            self._disk.note(call, Path(path), registers[_BUFFER], None)

    def _strike(self, who: int, registers: _Registers, call: str) -> None:
        match self._rule.deed:
            case "kill" | "power":
                os.kill(who, signal.SIGKILL)
            case "torn":
                registers[_COUNT] = registers[_COUNT] // 2
                registers.write()
                self._go_on(who, how=SYSCALL)
            case name:
                registers.refuse(getattr(errno, name))
                self._go_on(who)


class _Registers:
    """A stopped thread's registers."""

    def __init__(self, who: int) -> None:
        self._who = who
        self._values = (ctypes.c_ulong * 34)()
        self._move(GETREGSET, REGISTERS, self._values)

    def _move(self, how: int, which: int, values: Any) -> None:
        class Vector(ctypes.Structure):
            _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

        size = 27 * 8 if _IS_X86 and which == REGISTERS else ctypes.sizeof(values)
        vector = Vector(ctypes.addressof(values), size)
        _ptrace(how, self._who, which, ctypes.addressof(vector))

    def __getitem__(self, place: int) -> int:
        return int(self._values[place])

    def __setitem__(self, place: int, value: int) -> None:
        self._values[place] = value & (2**64 - 1)

    def write(self) -> None:
        self._move(SETREGSET, REGISTERS, self._values)

    def refuse(self, number: int) -> None:
        """The call is not done, and gives this error back."""
        if _IS_X86:
            self[_NUMBER] = -1
        else:
            self._move(SETREGSET, ARM_CALL, ctypes.c_int(-1))
        self[_ANSWER] = -number
        self.write()


def _ptrace(how: int, pid: int, address: int = 0, data: int = 0) -> int:
    return int(_libc.ptrace(how, pid, address, data))


def _path_of(pid: int, file: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/fd/{file}")
    return ""


def _peek(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


class _Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_Step)))


def _filter(calls: set[int]) -> None:
    """From here on these calls, and no others, stop for the tracer."""
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [_Step(load, 0, 0, 0)]
    for left, number in zip(range(len(calls), 0, -1), sorted(calls), strict=True):
        steps.append(_Step(equal, left, 0, number))
    steps += [_Step(answer, 0, 0, 0x7FFF0000), _Step(answer, 0, 0, 0x7FF00000)]
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    no_new_privileges, set_filter = 38, 22
    if _libc.prctl(no_new_privileges, 1, 0, 0, 0) or _libc.prctl(set_filter, 2, ctypes.byref(program), 0, 0):
        os._exit(77)
