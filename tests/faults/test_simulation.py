"""The engine in virtual time (tests/faults/world.py): hundreds of seeds, each a story of faults of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time

import pytest

from rowmill.domain.batch import BatchState, RowState
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.processes import ROOT
from tests.faults.world import B, BrokenPromiseError, World, play

CHUNKS, SEEDS = size(4, 40), size(40, 250)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_stories(chunk: int) -> None:
    """`python -m tests.faults.world SEED` plays a seed again that fails here."""
    counted, steps, virtual = Tally(), 0, 0.0
    start = time.monotonic()
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        world, story = play(seed)
        counted.add(story)
        steps += world.loop.steps
        virtual += world.loop.time()
    counted.own = {
        "seeds": SEEDS,
        "virtual hours": round(virtual / 3600, 1),
        "seconds": round(time.monotonic() - start),
    }
    audit.note("4.3", "seeded stories of faults in virtual time", "virtual time", counted)


def test_a_seed_tells_the_same_story_every_time() -> None:
    """Whatever Python's hashes are: a failing seed can be played again."""
    first, again = (_digest_of(7, hashes) for hashes in ("1", "2"))
    assert first == again
    assert _digest_of(8, "1") != first


def _digest_of(seed: int, hashes: str) -> str:
    code = f"from tests.faults.world import play; print(play({seed})[0].trace)"
    environ = {**os.environ, "PYTHONHASHSEED": hashes}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, check=True)
    return hashlib.sha256(told.stdout).hexdigest()


def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation itself: an engine that forgets its marks is caught."""
    from tests.faults.world import Marks

    monkeypatch.setattr(Marks, "was_sent", lambda *_: False)
    with pytest.raises(BrokenPromiseError, match=r"play it again: python -m tests\.faults\.world"):
        _play_all(200)


def _play_all(seeds: int) -> None:
    for seed in range(seeds):
        play(seed)


def _calm_world(seed: int = 5) -> World:
    world = World(seed)
    world.server.odds = {}
    world.loop.most_steps = 60_000
    return world


async def _until(world: World, sign) -> None:
    while not sign():
        await asyncio.sleep(0.05)
    assert world.loop.time() < 600


@pytest.mark.parametrize("fate", ["errored_but_runs", "cut", "lost_after"])
@pytest.mark.parametrize("seed", range(12))
def test_D3_a_run_that_is_in_the_log_before_it_can_be_seen(fate: str, seed: int) -> None:
    """Its row comes up to 50 s later: until then nothing is sent again, and nothing is given up."""
    world = _calm_world(seed)
    world.server.odds = {fate: 1.0, "not_found_at_first": 1.0}
    try:
        runner = world.start()
        world.loop.run_until_complete(asyncio.wait((runner.task,), timeout=3000))
        counted = world.tally()
    finally:
        world.close()
    counted.check()
    assert len(world.server.runs) == world.rows


@pytest.mark.xfail(strict=True, reason="engine/batches.py: close_batch knows no fence")
def test_a_runner_that_was_fenced_closes_nothing() -> None:
    """A process that wakes up with nothing in flight lays the batch down as its own, under the newer runner's feet,
    which then runs in circles: the batch is `paused`, and no closing move leads anywhere."""
    world = _calm_world()
    world.closing_is_fenced = False

    async def story() -> None:
        sleeper = world.start()
        await _until(world, lambda: len(world.server.runs) > 2)
        sleeper.engine.drain()
        # Its last result is written, and it is about to lay the batch down.
        nothing_runs = asyncio.Event()
        world.on_write = lambda: nothing_runs.set() if _running(world) == 0 else None
        while not nothing_runs.is_set():
            await asyncio.sleep(0.0001)
        world.loop.freeze(sleeper.number)
        newer = world.start()
        await asyncio.sleep(1)
        world.loop.thaw(sleeper.number)
        await asyncio.wait((newer.task,), timeout=500)
        batch = world.store.batch(B)
        assert batch is not None
        assert batch.state is BatchState.COMPLETED, batch

    _tell(world, story)


@pytest.mark.xfail(strict=True, reason="engine/batches.py: `_until_laid_down` spins while a row runs that nobody has")
def test_B3_a_commit_that_landed_although_the_disk_said_no() -> None:
    """The repeated write comes too late; the row is then for the next start to look for, and this one has to end."""
    world = _calm_world()
    world.landed, world.disk_broken_until = 1.0, 0.2

    async def story() -> None:
        runner = world.start()
        await asyncio.wait((runner.task,), timeout=500)
        assert runner.task.done()

    _tell(world, story)


def _running(world: World) -> int:
    return world.store.counts(B).of(RowState.RUNNING)


def _tell(world: World, story) -> None:
    try:
        world.loop.run_until_complete(story())
    except Exception as error:
        raise AssertionError(str(error)) from error
    finally:
        world.close()
