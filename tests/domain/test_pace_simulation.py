"""A glance at the simulation of benchmarks/pace on a few servers, so that the gates are guarded by every test run. The
real figures: `python -m benchmarks.pace`."""

from __future__ import annotations

import pytest
from benchmarks.pace import dify
from benchmarks.pace.servers import KINDS, oracle, play
from benchmarks.pace.table import rowmill

SEED = 21
SECONDS = 1500.0
# Goodput of the last third, and what may be rejected or billed per success (the hour earns more than this glance).
GATES = {
    "8 workers": (0.93, 0, 0),
    "4 workers, 60 s runs": (0.9, 0, 0),
    "429 above 10": (0.93, 0.03, 0),
    "120 rpm": (0.9, 0.03, 0),
    "model overload > 12": (0.75, 0, 0.02),
    "thrashing > 16": (0.7, 0, 0),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in GATES], ids=lambda kind: kind.name)
def test_kinds(kind):
    tally = play(kind, SEED, rowmill(kind), SECONDS).tally
    goodput, rejects, billed = GATES[kind.name]
    begin = SECONDS * 2 / 3
    mean = None if kind.by_starts else kind.mean
    assert tally.rows(begin, SECONDS, mean) >= goodput * oracle(kind, SEED, begin, SECONDS)
    assert tally.unknown == 0
    assert tally.rejects <= rejects * tally.oks
    assert tally.billed_failures <= billed * tally.oks


def test_the_same_seed_plays_the_same():
    first, second = (play(KINDS[0], SEED, rowmill(KINDS[0]), 300.0).tally for _ in range(2))
    assert first == second


@pytest.mark.parametrize("slots", [4, 1])
def test_a_default_dify_is_left_for_blocking_mode_where_that_pays(slots):
    played = dify.play(1.0, slots, dify.auto(), SEED, minutes=8)
    best = dify.play(1.0, slots, dify.FixedMode(10, dify.ResponseMode.BLOCKING), SEED, minutes=8)
    assert played.late >= 0.93 * best.late


@pytest.mark.parametrize(("seconds", "minutes"), [(0.0, 6), (0.2, 6), (3.0, 20), (8.0, 60)])
def test_a_default_dify_s_connections_are_found_and_kept(seconds, minutes):
    played = dify.play(seconds, 4, dify.auto(), SEED, minutes=minutes)
    best = dify.play(seconds, 4, dify.FixedMode(10, dify.ResponseMode.BLOCKING), SEED, minutes=minutes)
    assert played.late >= 0.95 * best.late
    assert played.most_open <= 12
    assert played.crowded <= 0.03


def test_long_runs_stay_in_streaming_mode():
    pace = dify.auto()
    dify.play(40.0, 4, pace, SEED, minutes=30)
    assert pace.response_mode() is dify.ResponseMode.STREAMING
