from __future__ import annotations

import pytest

from rowmill.domain.pace import Kind, Pace, PaceLimits, Reason, ResponseMode, Sample, ServerPace

NOW = 1000.0
OK = Sample(Kind.OK)


def proven(**limits):
    """A pace whose first row was accepted, and ended after a second."""
    pace = Pace(PaceLimits(**limits))
    start = pace.started(NOW - 1)
    pace.accepted(start, NOW - 0.9)
    pace.ended(start, OK, NOW)
    return pace


def start(pace, count, now=NOW):
    return [pace.started(now) for _ in range(count)]


def test_first_row_goes_alone():
    pace = Pace(PaceLimits(fixed=8))
    assert pace.room(NOW) == 1
    canary = pace.started(NOW)
    assert (pace.room(NOW), pace.why(NOW).reason) == (0, Reason.START)
    pace.accepted(canary, NOW + 1)
    assert pace.room(NOW + 1) == 7


@pytest.mark.parametrize("kind", [Kind.REJECT, Kind.EDGE, Kind.DOWN, Kind.UNKNOWN, Kind.LEFT])
def test_a_canary_that_was_not_accepted_proves_nothing(kind):
    pace = Pace(PaceLimits(fixed=8))
    pace.ended(pace.started(NOW), Sample(kind), NOW)
    assert (pace.proven, pace.in_flight, pace.room(NOW + 1000)) == (False, 0, 1)


@pytest.mark.parametrize("kind", [Kind.OK, Kind.FAILED, Kind.OVERLOADED])
def test_a_canary_that_ran_proves_in_blocking_mode_too(kind):
    pace = Pace(PaceLimits(fixed=8, mode=ResponseMode.BLOCKING, blocking_ok=True))
    pace.ended(pace.started(NOW), Sample(kind), NOW + 1)
    assert pace.room(NOW + 1) == 8


def test_fixed_is_fixed():
    pace = proven(fixed=8)
    assert (pace.room(NOW), pace.limit, pace.why(NOW).reason) == (8, 8, Reason.FIXED)


@pytest.mark.parametrize("limits", [{"fixed": 8}, {}])
def test_a_reject_closes_the_gate(limits):
    pace = proven(**limits)
    pace.ended(pace.started(NOW), Sample(Kind.REJECT), NOW)
    assert (pace.room(NOW + 0.9), pace.next_start(NOW), pace.why(NOW).reason) == (0, NOW + 1, Reason.GATE)
    assert pace.room(NOW + 1) > 0


@pytest.mark.parametrize("limits", [{"fixed": 8}, {}])
def test_retry_after_is_honoured(limits):
    pace = proven(**limits)
    pace.ended(pace.started(NOW), Sample(Kind.REJECT, retry_after=42.0), NOW)
    assert pace.next_start(NOW) == NOW + 42


def test_ended_twice_counts_once():
    pace = proven(fixed=8)
    first = pace.started(NOW)
    pace.ended(first, OK, NOW)
    pace.ended(first, OK, NOW)
    assert pace.in_flight == 0


def test_server_cap_is_shared():
    server = ServerPace(most=3)
    one, two = Pace(PaceLimits(fixed=8), server), Pace(PaceLimits(fixed=8), server)
    for pace in (one, two):
        pace.ended(pace.started(NOW), OK, NOW)
    assert one.room(NOW) <= 3
    start(one, one.room(NOW))
    assert one.in_flight + two.room(NOW) <= 3
    assert two.room(NOW) >= 1
