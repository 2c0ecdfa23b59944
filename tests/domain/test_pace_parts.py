from __future__ import annotations

import math

import pytest

from rowmill.domain.pace import ResponseMode
from rowmill.domain.pace_budget import Budget, retry_budget
from rowmill.domain.pace_levels import Level, Levels, bucket
from rowmill.domain.response_mode import ModeChoice, Phase, Round

STREAMING, BLOCKING, AUTO = ResponseMode.STREAMING, ResponseMode.BLOCKING, ResponseMode.AUTO


class TestBudget:
    def test_ten_percent_of_the_successes_and_ten(self):
        budget = retry_budget()
        assert sum(budget.take() for _ in range(50)) == 10
        for _ in range(100):
            budget.earn()
        assert sum(budget.take() for _ in range(50)) == 10

    @pytest.mark.parametrize(("successes", "spent", "left"), [(0, 0, 10), (100, 5, 15), (100, 20, 0), (0, 30, 0)])
    def test_goes_on_where_it_was(self, successes, spent, left):
        budget = retry_budget(successes, spent)
        assert sum(budget.take() for _ in range(50)) == left

    def test_holds_no_more_than_its_most(self):
        budget = Budget(3, 1.0, most=3)
        budget.earn()
        assert budget.left == 3

    def test_what_happened_is_paid_even_without_money(self):
        budget = Budget(1, 0.5)
        budget.spend(2)
        assert budget.is_empty
        for _ in range(4):
            budget.earn()
        assert not budget.is_empty


class TestLevels:
    @pytest.mark.parametrize(("number", "index"), [(1, 0), (2, 3), (4, 6), (8, 9), (10, 10), (0, 0)])
    def test_three_buckets_to_each_doubling(self, number, index):
        assert bucket(number) == index

    def test_few_or_old_runs_are_not_known(self):
        levels = Levels()
        levels.add(4, 2.0, 0.0)
        assert levels.known(0.0) == {}
        for _ in range(5):
            levels.add(4, 2.0, 10.0)
        assert list(levels.known(20.0)) == [bucket(4)]
        assert levels.known(2000.0) == {}

    def test_speed_is_number_by_run_time(self):
        levels = Levels()
        for _ in range(10):
            levels.add(8, 2.0, 0.0)
        assert math.exp(levels.known(0.0)[bucket(8)].speed) == pytest.approx(4.0)

    def test_comparison(self):
        levels = Levels()
        for _ in range(10):
            levels.add(4, 2.0, 0.0)
            levels.add(8, 4.0, 0.0)
        low, high = levels.known(0.0).values()
        shown = levels.compare(low, high)
        assert (shown.gain, shown.distance) == (pytest.approx(0.0, abs=1e-9), pytest.approx(math.log(2)))

    def test_old_runs_count_less_and_less(self):
        level = Level()
        for _ in range(500):
            level.add(0.0, 0.0, 1.0)
        for _ in range(1000):
            level.add(0.0, 5.0, 2.0)
        assert level.seconds > 4.9

    def test_a_stale_level_begins_anew(self):
        level = Level()
        for _ in range(50):
            level.add(0.0, 0.0, 1.0)
        level.add(0.0, 5.0, 5000.0)
        assert (level.weight, level.seconds) == (1, 5.0)


def rounds(choice, speed, *, count=20, now=0.0, queued=True, growing=False, times=4):
    """Several rounds in the present mode, so many rows each, at such a speed."""
    for _ in range(times):
        choice.turned(Round(choice.mode, count, count / speed, queued, growing), now)


def short(choice, seconds=1.0, count=20, now=0.0):
    for _ in range(count):
        choice.ran(seconds, now)


def trying(**known):
    choice = ModeChoice(AUTO, blocking_ok=True)
    short(choice, **known)
    rounds(choice, 4.0)
    return choice


class TestResponseMode:
    @pytest.mark.parametrize(
        ("wish", "ok", "mode"),
        [
            (STREAMING, True, STREAMING),
            (BLOCKING, True, BLOCKING),
            (BLOCKING, False, STREAMING),
            (AUTO, True, STREAMING),
            (AUTO, False, STREAMING),
        ],
    )
    def test_first_mode(self, wish, ok, mode):
        assert ModeChoice(wish, blocking_ok=ok).mode is mode

    @pytest.mark.parametrize(("wish", "ok"), [(STREAMING, True), (BLOCKING, True), (AUTO, False), (BLOCKING, False)])
    def test_a_wish_is_kept(self, wish, ok):
        choice = ModeChoice(wish, blocking_ok=ok)
        before = choice.mode
        short(choice)
        rounds(choice, 1.0)
        choice.lost(choice.mode, 1.0)
        choice.lost(choice.mode, 1.0)
        short(choice, 100.0)
        assert choice.mode is before

    def test_short_runs_that_wait_are_tried_in_blocking_mode(self):
        assert trying().phase is Phase.TRYING

    def test_runs_that_do_not_wait_stay(self):
        choice = ModeChoice(AUTO, blocking_ok=True)
        short(choice)
        rounds(choice, 4.0, queued=False)
        assert choice.phase is Phase.STREAMING

    @pytest.mark.parametrize(("seconds", "phase"), [(19.0, Phase.TRYING), (21.0, Phase.STREAMING)])
    def test_long_runs_stay(self, seconds, phase):
        assert trying(seconds=seconds).phase is phase

    def test_too_few_runs_say_nothing(self):
        assert trying(count=4).phase is Phase.STREAMING

    def test_a_trial_that_pays_is_kept(self):
        choice = trying()
        rounds(choice, 10.0)
        assert (choice.phase, choice.mode) == (Phase.BLOCKING, BLOCKING)

    @pytest.mark.parametrize("speed", [2.0, 4.2])
    def test_a_trial_that_does_not_pay_is_ended_and_not_repeated_soon(self, speed):
        choice = trying()
        rounds(choice, speed, times=6)
        assert (choice.phase, choice.fell_back) == (Phase.STREAMING, True)
        rounds(choice, 4.0, now=500.0, times=1)
        assert choice.phase is Phase.STREAMING
        rounds(choice, 4.0, now=601.0, times=1)
        assert choice.phase is Phase.TRYING

    def test_a_trial_that_still_grows_goes_on(self):
        choice = trying()
        rounds(choice, 4.0, growing=True, times=10)
        assert choice.phase is Phase.TRYING

    def test_runs_that_get_long_leave_blocking_mode(self):
        choice = trying()
        rounds(choice, 10.0)
        short(choice, 31.0, count=1)
        assert choice.mode is BLOCKING, "a few slow rows are no trend"
        short(choice, 31.0, count=3)
        assert (choice.mode, choice.fell_back) == (STREAMING, True)

    def test_lost_replies_leave_blocking_mode(self):
        choice = trying()
        rounds(choice, 10.0)
        choice.lost(STREAMING, 1.0)
        choice.lost(BLOCKING, 1.0)
        assert choice.mode is BLOCKING
        choice.lost(BLOCKING, 1.0)
        assert (choice.mode, choice.fell_back) == (STREAMING, True)

    def checking(self):
        choice = trying()
        rounds(choice, 10.0)
        rounds(choice, 10.0, now=1801.0, times=1)
        assert (choice.phase, choice.mode) == (Phase.CHECKING, STREAMING)
        return choice

    def test_streaming_is_looked_at_again_and_left_when_it_is_far_behind(self):
        choice = self.checking()
        rounds(choice, 2.0, now=1802.0, count=3, times=1)
        assert choice.phase is Phase.BLOCKING

    def test_streaming_is_taken_again_when_it_is_as_fast(self):
        choice = self.checking()
        rounds(choice, 10.0, now=1802.0, queued=False)
        assert choice.phase is Phase.STREAMING

    def test_rounds_of_the_other_mode_are_not_asked(self):
        choice = trying()
        choice.turned(Round(STREAMING, 1000, 1.0, queued=True, growing=False), 0.0)
        assert choice.phase is Phase.TRYING

    def test_memory(self):
        choice = trying()
        rounds(choice, 10.0)
        again = ModeChoice(AUTO, blocking_ok=True)
        again.from_json(choice.to_json())
        assert again.mode is BLOCKING
        forbidden = ModeChoice(AUTO, blocking_ok=False)
        forbidden.from_json(choice.to_json())
        assert forbidden.mode is STREAMING
