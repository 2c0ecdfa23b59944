"""The pace as its user meets it: every rule, every signal."""

from __future__ import annotations

import json

import pytest

from rowmill.domain.pace import Kind, Pace, PaceLimits, Reason, ResponseMode, Sample, ServerPace

NOW = 1000.0
OK = Sample(Kind.OK)
ACCEPTED = [Kind.OK, Kind.FAILED, Kind.OVERLOADED]
NOT_ACCEPTED = [Kind.REJECT, Kind.EDGE, Kind.DOWN, Kind.UNKNOWN, Kind.LEFT]
EITHER = pytest.mark.parametrize("limits", [{"fixed": 8}, {"most": 8}], ids=["fixed", "adaptive"])


def proven(**limits):
    """A pace whose first row was accepted, and ended after a second."""
    pace = Pace(PaceLimits(**limits))
    start = pace.started(NOW - 1)
    pace.accepted(start, NOW - 0.9)
    pace.ended(start, OK, NOW)
    return pace


def end(pace, kind, now=NOW, **known):
    """One attempt that ends at once in such a way."""
    pace.ended(pace.started(now), Sample(kind, **known), now)


class Server:
    """Plays runs of one second that begin after a tenth, unless a rule about starts says otherwise."""

    def __init__(self, pace, *, seconds=1.0, delay=0.1, judge=lambda others, now: Kind.OK):
        self.pace = pace
        self.seconds, self.delay, self.judge = seconds, delay, judge
        self.now = NOW
        self.flights = []
        self.oks = self.rejects = self.peak = 0
        self.starts = []

    def run(self, seconds, step=0.05):
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self._settle()
            while self.pace.room(self.now) > 0 and self.pace.next_start(self.now) <= self.now:
                self._start()
        return self

    def _start(self):
        others = len(self.flights)
        start = self.pace.started(self.now)
        self.starts.append(self.now)
        kind = self.judge(others, self.now)
        if kind in (Kind.REJECT, Kind.EDGE, Kind.DOWN):
            self.rejects += 1
            self.pace.ended(start, Sample(kind), self.now)
            return
        self.flights.append((start, self.now, kind))
        self.peak = max(self.peak, len(self.flights))

    def _settle(self):
        for flight in list(self.flights):
            start, at, kind = flight
            if self.now >= at + self.delay and start.accepted_at is None:
                self.pace.accepted(start, self.now)
            if self.now >= at + self.delay + self.seconds:
                self.flights.remove(flight)
                self.oks += kind is Kind.OK
                self.pace.ended(start, Sample(kind), self.now)


class Slots(Server):
    """So many run at once, the others wait without a word."""

    def __init__(self, pace, slots, **how):
        super().__init__(pace, **how)
        self.slots = slots
        self.began = {}

    def _settle(self):
        for start, at, _ in list(self.flights):
            if start not in self.began and len(self.began) < self.slots and self.now >= at + self.delay:
                self.began[start] = self.now
                self.pace.accepted(start, self.now)
        for flight in list(self.flights):
            start = flight[0]
            if start in self.began and self.now >= self.began[start] + self.seconds:
                self.flights.remove(flight)
                del self.began[start]
                self.oks += 1
                self.pace.ended(start, OK, self.now)


# ── canary ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@EITHER
def test_first_row_goes_alone(limits):
    pace = Pace(PaceLimits(**limits))
    assert pace.room(NOW) == 1
    canary = pace.started(NOW)
    assert (pace.room(NOW), pace.why(NOW).reason) == (0, Reason.START)
    pace.accepted(canary, NOW + 1)
    assert pace.room(NOW + 1) > 0


@pytest.mark.parametrize("kind", NOT_ACCEPTED)
def test_a_canary_that_was_not_accepted_proves_nothing(kind):
    pace = Pace(PaceLimits(fixed=8))
    end(pace, kind)
    assert (pace.proven, pace.in_flight, pace.room(NOW + 1000)) == (False, 0, 1)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_canary_that_ran_proves_in_blocking_mode_too(kind):
    pace = Pace(PaceLimits(fixed=8, mode=ResponseMode.BLOCKING, blocking_ok=True))
    pace.ended(pace.started(NOW), Sample(kind), NOW + 1)
    assert pace.room(NOW + 1) == 8


# ── a fixed number ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_fixed_is_fixed():
    pace = proven(fixed=8)
    assert (pace.room(NOW), pace.limit, pace.why(NOW).reason) == (8, 8, Reason.FIXED)


def test_fixed_stays_fixed_under_all_that_is_learned():
    server = Slots(proven(fixed=8), 2).run(60)
    assert (server.pace.limit, server.peak) == (8, 8)


@pytest.mark.parametrize("kind", [Kind.UNKNOWN, Kind.OVERLOADED, Kind.FAILED])
def test_fixed_is_not_cut(kind):
    pace = proven(fixed=8)
    for _ in range(5):
        end(pace, kind)
    assert pace.limit == 8


@pytest.mark.parametrize("kind", [Kind.REJECT, Kind.EDGE])
def test_fixed_learns_no_rate(kind):
    pace = Server(proven(fixed=8)).run(30).pace
    for _ in range(4):
        end(pace, kind, max(NOW + 31, pace.gate))
    now = pace.gate
    pace.accepted(pace.started(now), now)
    assert (pace.next_start(now), pace.why(now).reason) == (now, Reason.FIXED)


def test_even_a_fixed_number_bows_to_the_app_s_own_limit():
    pace = proven(fixed=8)
    end(pace, Kind.REJECT, quoted=3)
    assert (pace.limit, pace.why(pace.gate).reason) == (3, Reason.QUOTED)


# ── gates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@EITHER
def test_a_reject_closes_the_gate(limits):
    pace = proven(**limits)
    end(pace, Kind.REJECT)
    assert (pace.room(NOW + 0.9), pace.next_start(NOW), pace.why(NOW).reason) == (0, NOW + 1, Reason.GATE)
    assert pace.room(NOW + 1) > 0


@EITHER
@pytest.mark.parametrize("kind", [Kind.REJECT, Kind.EDGE, Kind.DOWN])
@pytest.mark.parametrize(("said", "wait"), [(42.0, 42.0), (0.0, 0.5), (-3.0, 0.5), (1e9, 300.0)])
def test_retry_after_is_honoured(limits, kind, said, wait):
    pace = proven(**limits)
    end(pace, kind, retry_after=said)
    assert pace.next_start(NOW) == NOW + wait


def gates(kind, count):
    """How long the gate stays closed after each of `count` troubles in a row, each after the last gate opened."""
    pace, now, waits = proven(fixed=8), NOW, []
    for _ in range(count):
        end(pace, kind, now)
        waits.append(round(pace.gate - now, 6))
        now = pace.gate
    return waits


GROWTH = {
    Kind.REJECT: [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300],
    Kind.EDGE: [60, 120, 240, 300, 300],
    Kind.DOWN: [0.2, 0.2, 1, 2, 4, 8, 16, 30, 30],
}


@pytest.mark.parametrize(("kind", "waits"), GROWTH.items())
def test_gates_grow(kind, waits):
    assert gates(kind, len(waits)) == waits


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 8.0), (0.5, 9.0), (0.999, 9.998)])
def test_jitter_only_lengthens(jitter, wait):
    pace = proven()
    pace.ended(pace.started(NOW), Sample(Kind.REJECT, retry_after=8.0), NOW, jitter)
    assert pace.gate == pytest.approx(NOW + wait)


def test_answers_from_before_the_gate_are_no_new_trouble():
    pace = proven(fixed=8)
    wave = [pace.started(NOW) for _ in range(5)]
    for start in wave:
        pace.ended(start, Sample(Kind.REJECT), NOW + 0.1)
    assert pace.gate == NOW + 1.1
    end(pace, Kind.REJECT, NOW + 2)
    assert pace.gate == NOW + 4, "five rejects, but the second wave"


def test_an_acceptance_after_the_trouble_ends_it():
    pace = proven(fixed=8)
    for _ in range(4):
        end(pace, Kind.REJECT, max(NOW, pace.gate))
    now = pace.gate
    pace.accepted(pace.started(now), now + 0.1)
    end(pace, Kind.REJECT, now + 1)
    assert pace.gate == now + 2


def test_an_acceptance_of_what_was_sent_before_the_trouble_ends_nothing():
    pace = proven(fixed=8)
    old = pace.started(NOW)
    end(pace, Kind.REJECT, NOW + 1)
    pace.accepted(old, NOW + 1.5)
    end(pace, Kind.REJECT, NOW + 2)
    assert pace.gate == NOW + 4


# ── a server that is not there ──────────────────────────────────────────────────────────────────────────────────────


def broken(**limits):
    pace = proven(**limits)
    for _ in range(3):
        end(pace, Kind.DOWN, max(NOW, pace.gate))
    return pace


@EITHER
def test_one_refused_connection_is_a_hiccup(limits):
    pace = proven(**limits)
    end(pace, Kind.DOWN)
    assert pace.gate == pytest.approx(NOW + 0.2)
    assert pace.room(NOW + 0.3) > 1


@EITHER
def test_a_dead_server_is_probed_by_one(limits):
    pace = broken(**limits)
    now = pace.gate
    assert (pace.room(now), pace.why(now).reason) == (1, Reason.DOWN)
    probe = pace.started(now)
    assert pace.room(now) == 0
    pace.accepted(probe, now + 1)
    assert (pace.room(now + 1) > 0, pace.why(now + 1).reason != Reason.DOWN) == (True, True)


def test_runs_of_before_do_not_stand_in_the_way_of_the_probe():
    pace = proven(fixed=8)
    for start in [pace.started(NOW) for _ in range(4)]:
        pace.accepted(start, NOW)
    for _ in range(3):
        end(pace, Kind.DOWN, max(NOW, pace.gate))
    assert pace.room(pace.gate) == 1


def test_runs_of_before_do_not_prove_that_the_server_is_back():
    pace = proven(fixed=8)
    old = pace.started(NOW)
    for _ in range(3):
        end(pace, Kind.DOWN, max(NOW + 1, pace.gate))
    pace.accepted(old, pace.gate)
    assert pace.why(pace.gate).reason is Reason.DOWN


def test_a_probe_that_tells_nothing_lets_the_next_one_go():
    pace = broken(fixed=8)
    end(pace, Kind.LEFT, pace.gate)
    assert pace.room(pace.gate) == 1


# ── how fast ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limits", "gap"), [({"per_minute": 120}, 0.5), ({"min_gap": 2.0}, 2.0), ({"per_minute": 120, "min_gap": 2.0}, 2.0)]
)
@pytest.mark.parametrize("fixed", [None, 8])
def test_the_user_s_spacing(limits, gap, fixed):
    server = Server(proven(fixed=fixed, **limits)).run(30)
    gaps = [b - a for a, b in zip(server.starts, server.starts[1:], strict=False)]
    assert min(gaps) >= gap - 1e-9
    assert len(server.starts) == pytest.approx(30 / gap, rel=0.15)


def per_minute(limit):
    """A judge that takes so many starts in each sliding minute."""
    taken = []

    def judge(others, now):
        while taken and taken[0] < now - 60:
            taken.pop(0)
        if len(taken) >= limit:
            return Kind.REJECT
        taken.append(now)
        return Kind.OK

    return judge


def test_a_limit_of_starts_is_found_and_held():
    server = Server(proven(most=50), seconds=5.0, judge=per_minute(60)).run(900)
    assert server.pace.why(server.now).reason is Reason.RATE
    assert server.pace.why(server.now).numbers["per_minute"] == pytest.approx(60, rel=0.15)
    before = server.oks
    server.run(300)
    assert server.oks - before >= 0.9 * 300
    assert server.rejects <= 0.03 * server.oks


def test_a_limit_of_runs_at_once_is_not_taken_for_a_limit_of_starts():
    server = Server(proven(most=50), judge=lambda others, now: Kind.REJECT if others >= 7 else Kind.OK).run(300)
    assert server.pace.why(server.now).reason is not Reason.RATE
    assert (server.pace.limit, server.peak) == (7, 7)
    assert server.rejects <= 0.03 * server.oks


def test_a_lowered_limit_of_runs_at_once_is_followed_down_and_up():
    limit = [9]
    server = Server(proven(most=50), judge=lambda others, now: Kind.REJECT if others >= limit[0] else Kind.OK).run(200)
    for new in (3, 12):
        limit[0] = new
        before = server.run(700).oks
        server.run(100)
        assert server.oks - before >= 0.8 * 100 * new / 1.15


def test_a_proxy_s_limit_is_a_rate():
    pace = proven(most=50)
    server = Server(pace).run(30)
    end(pace, Kind.EDGE, server.now)
    assert pace.gate == pytest.approx(server.now + 60)
    assert pace.why(pace.gate).reason is Reason.RATE


# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grows_to_the_user_s_cap_while_all_is_well():
    server = Server(proven(most=20)).run(60)
    assert (server.peak, server.pace.why(server.now).reason) == (20, Reason.CAP)


def test_a_silent_queue_is_seen_and_not_filled():
    server = Slots(proven(most=50), 4).run(120)
    assert server.pace.why(server.now).reason is Reason.QUEUE
    assert len(server.flights) <= 6
    before = server.oks
    server.run(60)
    assert server.oks - before >= 0.9 * 60 * 4


def test_a_queue_that_goes_away_lets_it_grow_again():
    server = Slots(proven(most=50), 4).run(120)
    server.slots = 16
    server.run(120)
    assert len(server.flights) >= 16


def test_nothing_starts_while_runs_are_overdue():
    pace = proven(most=50)
    server = Server(pace).run(20)
    assert server.peak > 8
    server.delay = 1e9  # nobody begins any more
    waiting = len(server.run(5).flights)
    server.run(60)
    assert len(server.flights) == waiting


def test_an_expected_wait_that_is_too_long_keeps_the_last_one_back():
    """300 s after it was sent Dify forgets who asked: with one slot and long runs nobody queues."""
    server = Slots(proven(most=50), 1, seconds=100.0).run(4000, step=0.5)
    assert (server.pace.limit, len(server.flights)) == (1, 1)


def test_overload_inside_runs_cuts_and_the_way_back_is_paid_for():
    def judge(others, now):
        return Kind.OVERLOADED if others >= 12 else Kind.OK

    server = Server(proven(most=50), seconds=3.0, judge=judge).run(60)
    assert server.pace.limit <= 14
    server.run(1800)
    assert 8 <= server.pace.limit <= 13
    failures = len(server.starts) - server.oks
    assert failures <= 0.01 * server.oks + 10


def test_failures_of_the_rows_own_do_not_slow_down():
    server = Server(proven(most=20), judge=lambda others, now: Kind.FAILED).run(60)
    assert server.peak == 20


def test_a_lost_reply_halves():
    pace = proven(most=50)
    server = Server(pace).run(30)
    before = pace.limit
    lost = pace.started(server.now)
    pace.ended(lost, Sample(Kind.UNKNOWN), server.now + 5)
    assert pace.limit == before // 2
    assert pace.why(server.now + 5).reason is Reason.UNKNOWN


def test_several_lost_replies_of_one_wave_halve_once():
    pace = proven(most=50)
    server = Server(pace).run(30)
    before, wave = pace.limit, [pace.started(server.now) for _ in range(4)]
    for start in wave:
        pace.ended(start, Sample(Kind.UNKNOWN), server.now + 5)
    assert pace.limit == before // 2


def test_a_server_that_only_gets_slower_is_not_pushed():
    class Thrashing(Server):
        def _start(self):
            self.seconds = 2.0 * max(1.0, (len(self.flights) + 1) / 6) ** 1.5
            super()._start()

        def _settle(self):
            for flight in list(self.flights):
                start, at, _ = flight
                if start.accepted_at is None and self.now >= at + self.delay:
                    self.pace.accepted(start, self.now)
                    ends[start] = self.now + self.seconds
                if self.now >= ends.get(start, 1e18):
                    self.flights.remove(flight)
                    self.oks += 1
                    self.pace.ended(start, OK, self.now)

    ends = {}
    server = Thrashing(proven(most=50)).run(900)
    assert server.pace.limit <= 12
    before = server.oks
    server.run(300)
    assert server.oks - before >= 0.7 * 300 * 6 / 2.1


# ── the app's own limit ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("quoted", "limit"), [(2, 2), (1, 1), (0, 1), (-3, 1)])
def test_quoted_limit(quoted, limit):
    pace = Server(proven(most=50)).run(30).pace
    pace.learn_limit(quoted)
    assert pace.limit == limit


def test_quoted_limit_is_never_raised_again():
    pace = proven(fixed=8)
    pace.learn_limit(2)
    pace.learn_limit(5)
    assert pace.limit == 2


def test_quoted_limit_counts_for_the_mode_in_which_it_was_told():
    pace = proven(fixed=8, blocking_ok=True)
    pace.learn_limit(2, ResponseMode.BLOCKING)
    assert pace.limit == 8


def test_rejects_below_the_quoted_limit_are_other_people_s_runs():
    pace = Pace(PaceLimits(most=50))
    pace.from_json({"windows": {"streaming": {"size": 20}}})
    for running in start(pace, 3):
        pace.accepted(running, NOW + 0.1)
    end(pace, Kind.REJECT, NOW + 1, quoted=8)
    assert (pace.limit, pace.why(pace.gate).reason) == (3, Reason.REJECTED)


# ── one server, several apps ────────────────────────────────────────────────────────────────────────────────────────


def two(most, **limits):
    server = ServerPace(most=most)
    paces = [Pace(PaceLimits(**limits), server) for _ in range(2)]
    for pace in paces:
        pace.ended(pace.started(NOW), OK, NOW)
    return server, *paces


def start(pace, count, now=NOW):
    return [pace.started(now) for _ in range(count)]


@pytest.mark.parametrize("most", range(1, 9))
def test_server_cap_is_shared(most):
    server, one, other = two(most, fixed=8)
    for _ in range(20):
        for pace in (one, other):
            if pace.room(NOW) > 0:
                pace.started(NOW)
    assert server.in_flight == min(most, 16)
    if most > 1:
        assert abs(one.in_flight - other.in_flight) <= 1


def test_an_idle_app_does_not_hold_places():
    _, one, _ = two(6, fixed=8)
    later = NOW + 60
    start(one, one.room(later), later)
    assert one.in_flight == 6
    assert one.why(later).reason is Reason.SERVER


def test_a_dead_server_is_dead_for_all_and_probed_by_one_of_them():
    _, one, other = two(None, fixed=8)
    for _ in range(3):
        end(one, Kind.DOWN, max(NOW, one.gate))
    now = other.gate
    assert now > NOW
    assert (other.room(now), one.room(now)) == (1, 1)
    probe = one.started(now)
    assert other.room(now) == 0
    one.accepted(probe, now)
    assert other.room(now) == 8


def test_a_reject_of_one_app_does_not_close_the_gate_of_the_other():
    _, one, other = two(None, fixed=8)
    end(one, Kind.REJECT)
    assert (one.room(NOW), other.room(NOW)) == (0, 8)


def test_a_proxy_s_reject_closes_it_for_all():
    _, one, other = two(None, fixed=8)
    end(one, Kind.EDGE)
    assert other.next_start(NOW) == NOW + 60


# ── bookkeeping ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ended_twice_counts_once():
    pace = proven(fixed=8)
    first = pace.started(NOW)
    pace.ended(first, OK, NOW)
    pace.ended(first, Sample(Kind.REJECT), NOW)
    assert (pace.in_flight, pace.gate) == (0, 0)


def test_accepted_after_the_end_changes_nothing():
    pace = proven(most=8)
    first = pace.started(NOW)
    pace.ended(first, Sample(Kind.UNKNOWN), NOW + 1)
    pace.accepted(first, NOW + 2)
    assert first.accepted_at is None


def test_what_was_learned_survives_a_restart():
    pace = Slots(proven(most=50), 12).run(120).pace
    again = Pace(PaceLimits(most=50))
    again.from_json(json.loads(json.dumps(pace.to_json())))
    assert (again.limit, again.room(NOW)) == (pace.limit, 1)


def test_a_learned_rate_survives_a_restart():
    pace = Server(proven(most=50), seconds=5.0, judge=per_minute(60)).run(600).pace
    again = Pace(PaceLimits(most=50))
    again.from_json(json.loads(json.dumps(pace.to_json())))
    again.accepted(again.started(NOW), NOW)
    assert again.next_start(NOW) == pytest.approx(NOW + 1, rel=0.2)


def test_a_smaller_cap_wins_over_what_was_learned():
    pace = Server(proven(most=50)).run(60).pace
    again = Pace(PaceLimits(most=5))
    again.from_json(pace.to_json())
    assert again.limit == 5


DAMAGED = [
    {},
    {"windows": None, "mode": 3, "rate": "fast"},
    {"windows": {"streaming": {"size": float("nan"), "quoted": -1, "run_time": "x"}}, "rate": float("inf")},
    {"windows": {"streaming": {"size": 1e300}}, "mode": {"times": [None, "a", -1], "blocking": 1}, "rate": 0},
]


@pytest.mark.parametrize("learned", DAMAGED)
def test_a_damaged_memory_does_no_harm(learned):
    pace = Pace(PaceLimits(most=50, blocking_ok=True))
    pace.from_json(learned)
    server = Server(pace).run(60)
    assert server.peak == 50
    assert pace.response_mode() is ResponseMode.STREAMING
