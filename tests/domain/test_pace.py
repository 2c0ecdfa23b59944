from __future__ import annotations

import pytest

from rowmill.domain.pace import FixedPace, Signal

OK, REJECT, EDGE, DOWN = Signal.OK, Signal.REJECT, Signal.EDGE, Signal.DOWN
NOW = 1000.0


def proven(limit=4):
    pace = FixedPace(limit)
    pace.note(OK, 0.0)
    return pace


def test_first_row_goes_alone():
    pace = FixedPace(8)
    assert (pace.room(NOW, 0), pace.room(NOW, 1)) == (1, 0)


def test_first_acceptance_opens_the_limit():
    assert proven(8).room(NOW, 0) == 8


@pytest.mark.parametrize(("in_flight", "room"), [(0, 4), (3, 1), (4, 0), (9, 0)])
def test_never_more_than_the_limit(in_flight, room):
    assert proven(4).room(NOW, in_flight) == room


def test_reject_closes_the_gate_for_everybody():
    pace = proven()
    pace.note(REJECT, NOW)
    assert (pace.room(NOW, 0), pace.room(NOW + 0.999, 0), pace.room(NOW + 1, 0)) == (0, 0, 4)


def gates(signal, count, **known):
    """How long the gate stays closed after each of `count` troubles in a row, each after the last gate opened."""
    pace, now, waits = proven(), NOW, []
    for _ in range(count):
        pace.note(signal, now, **known)
        waits.append(pace.gate - now)
        now = pace.gate
    return waits


GROWTH = {
    "rejects double up to 300 s": (REJECT, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]),
    "probes of a dead server, at most 30 s apart": (DOWN, [1, 2, 4, 8, 16, 30, 30]),
    "a proxy's limit starts at a minute": (EDGE, [60, 120, 240, 300, 300]),
}


@pytest.mark.parametrize(("signal", "waits"), GROWTH.values(), ids=GROWTH)
def test_growth(signal, waits):
    assert gates(signal, len(waits)) == waits


def test_acceptance_starts_over():
    pace = proven()
    for _ in range(5):
        pace.note(REJECT, pace.gate or NOW)
    now = pace.gate
    pace.note(OK, now)
    pace.note(REJECT, now)
    assert pace.gate == now + 1


RETRY_AFTER = {0.0: 0.5, -5.0: 0.5, 0.75: 0.75, 12.0: 12.0, 300.0: 300.0, 301.0: 300.0, 1e9: 300.0}


@pytest.mark.parametrize("signal", [REJECT, EDGE, DOWN])
@pytest.mark.parametrize(("said", "wait"), RETRY_AFTER.items(), ids=map(str, RETRY_AFTER))
def test_retry_after(signal, said, wait):
    assert gates(signal, 3, retry_after=said) == [wait] * 3


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 8.0), (0.5, 9.0), (1.0, 10.0)])
def test_jitter_only_lengthens(jitter, wait):
    assert gates(REJECT, 1, retry_after=8.0, jitter=jitter) == [wait]


def test_answers_from_before_the_gate_change_nothing():
    pace = proven()
    for moment in (NOW, NOW + 0.1, NOW + 0.5):
        pace.note(REJECT, moment)
    assert pace.gate == NOW + 1
    pace.note(REJECT, NOW + 1)
    assert pace.gate == NOW + 3, "four rejects, but two waves"


def test_retry_after_from_before_the_gate_lengthens_it_but_is_no_new_trouble():
    pace = proven()
    for _ in range(10):
        pace.note(REJECT, NOW, retry_after=5.0)
    assert pace.gate == NOW + 5
    pace.note(REJECT, NOW + 1, retry_after=20.0)
    assert pace.gate == NOW + 21
    pace.note(REJECT, NOW + 21)
    assert pace.gate == NOW + 23


def test_the_gate_never_opens_earlier():
    pace = proven()
    pace.note(REJECT, NOW, retry_after=100.0)
    pace.note(REJECT, NOW + 1, retry_after=1.0)
    assert pace.gate == NOW + 100


def test_acceptance_does_not_open_the_gate():
    pace = proven()
    pace.note(REJECT, NOW, retry_after=100.0)
    pace.note(OK, NOW + 1)
    assert pace.room(NOW + 99, 0) == 0


def test_a_dead_server_is_probed_by_one():
    pace = proven()
    pace.note(DOWN, NOW)
    assert (pace.room(NOW + 1, 0), pace.room(NOW + 1, 1)) == (1, 0)
    pace.note(OK, NOW + 2)
    assert pace.room(NOW + 2, 0) == 4


def test_a_server_that_dies_behind_a_closed_gate_is_probed_by_one():
    pace = proven()
    pace.note(REJECT, NOW, retry_after=10.0)
    pace.note(DOWN, NOW + 1)
    assert (pace.gate, pace.room(NOW + 10, 0)) == (NOW + 10, 1)


@pytest.mark.parametrize("signal", [REJECT, EDGE])
def test_a_reject_needs_no_new_canary(signal):
    pace = proven()
    pace.note(signal, NOW)
    assert pace.room(pace.gate, 0) == 4


@pytest.mark.parametrize(("quoted", "limit"), [(2, 2), (8, 8), (9, 8), (1, 1), (0, 1), (-3, 1)])
def test_learnt_limit(quoted, limit):
    pace = proven(8)
    pace.learn_limit(quoted)
    assert pace.room(NOW, 0) == limit


def test_learnt_limit_is_never_raised_again():
    pace = proven(8)
    pace.learn_limit(2)
    pace.learn_limit(5)
    assert pace.limit == 2
