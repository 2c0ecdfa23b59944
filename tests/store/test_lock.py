"""One runner per data folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from rowmill.domain.errors import StoreError
from rowmill.store.lock import OWNER_NAME, RunnerLock

HOLD = (
    "import sys, pathlib, time; from rowmill.store.lock import RunnerLock;"
    "lock = RunnerLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_a_second_process_is_told_who_holds_the_lock_until_that_one_is_killed(tmp_path):
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError) as raised:
            RunnerLock(tmp_path)
        assert raised.value.code == "store_in_use"
        about = raised.value.params
        assert (about["pid"], about["host"], about["path"]) == (other.pid, socket.gethostname(), str(tmp_path))
        assert before <= about["since"] <= time.time()
        other.kill()
        other.wait()
    with RunnerLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / OWNER_NAME).read_text()


def test_two_in_one_process_exclude_each_other_too(tmp_path):
    first = RunnerLock(tmp_path)
    with pytest.raises(StoreError, match="store_in_use"):
        RunnerLock(tmp_path)
    first.release()
    first.release()
    RunnerLock(tmp_path).release()


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_an_unreadable_note_about_the_owner_is_no_reason_to_fail(tmp_path, content):
    with RunnerLock(tmp_path):
        (tmp_path / OWNER_NAME).write_text(content)
        with pytest.raises(StoreError) as raised:
            RunnerLock(tmp_path)
        assert raised.value.params["pid"] is None


def test_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        RunnerLock(tmp_path / "file")
