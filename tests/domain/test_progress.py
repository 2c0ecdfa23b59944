from __future__ import annotations

import math

import pytest

from rowmill.domain.batch import RowState
from rowmill.domain.progress import Counts, Speed

EACH = {state: 10**place for place, state in enumerate(RowState)}


def test_no_rows():
    assert (Counts().total, Counts().done, Counts().of(RowState.FAILED), Counts().tokens) == (0, 0, 0, 0)


def test_skipped_rows_do_not_count():
    counts = Counts(EACH)
    assert counts.total == sum(EACH.values()) - EACH[RowState.SKIPPED]


def test_done_rows():
    open_states = (RowState.PENDING, RowState.RUNNING, RowState.WAITING)
    counts = Counts(EACH)
    assert counts.total - counts.done == sum(EACH[state] for state in open_states) == counts.of(*open_states)


def speed(*ends, window=60.0):
    made = Speed(window)
    made.note(0.0, 0)
    for now, finished in ends:
        made.note(now, finished)
    return made


RATES = {
    "nothing finished": ([], 10.0, 0.0),
    "since the start": ([(5.0, 10)], 10.0, 1.0),
    "several": ([(1.0, 3), (2.0, 0), (4.0, 5)], 4.0, 2.0),
    "just inside the window": ([(10.0, 60)], 70.0, 1.0),
    "just outside": ([(9.9, 60)], 70.0, 0.0),
    "old ones are forgotten": ([(1.0, 600), (65.0, 30)], 70.0, 0.5),
    "a silent minute": ([(10.0, 60)], 1000.0, 0.0),
}


@pytest.mark.parametrize(("ends", "now", "rate"), RATES.values(), ids=RATES)
def test_rate(ends, now, rate):
    assert speed(*ends).rate(now) == pytest.approx(rate)


def test_rate_before_the_start():
    assert Speed().rate(5.0) == 0.0
    assert Speed().eta(5.0, 10) is None


def test_rate_at_the_very_start_divides_by_no_zero():
    assert math.isfinite(speed((0.0, 3)).rate(0.0))


@pytest.mark.parametrize(("finished", "known"), [(1, False), (19, False), (20, True)])
def test_eta_is_hidden_until_20_rows(finished, known):
    assert (speed((10.0, finished)).eta(10.0, 100) is not None) is known


def test_20_rows_may_come_one_by_one():
    assert speed(*[(float(i), 1) for i in range(1, 21)]).eta(20.0, 5) is not None


def test_eta_is_hidden_when_nothing_moves():
    assert speed((10.0, 50)).eta(500.0, 100) is None


def test_eta_is_a_range_around_left_over_rate():
    soonest, latest = speed((10.0, 100)).eta(10.0, 50)
    # 10 rows/s; two standard errors of 100 counted rows are a fifth.
    assert (soonest, latest) == (pytest.approx(5 / 1.2), pytest.approx(5 * 1.2))


def test_range_narrows_with_more_rows():
    few, many = speed((10.0, 25)).eta(10.0, 50), speed((10.0, 2500)).eta(10.0, 50)
    assert many[1] / many[0] < few[1] / few[0]


def test_nothing_left():
    assert speed((10.0, 30)).eta(10.0, 0) == (0.0, 0.0)
