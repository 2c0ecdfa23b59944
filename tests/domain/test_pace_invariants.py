"""Whatever happens: Hypothesis plays a server that does as it likes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rowmill.domain.pace import Kind, Pace, PaceLimits, ResponseMode, Sample, ServerPace

LIMITS = st.builds(
    PaceLimits,
    most=st.integers(1, 60),
    fixed=st.none() | st.integers(1, 60),
    per_minute=st.none() | st.floats(1, 6000),
    min_gap=st.just(0.0) | st.floats(0, 5),
    mode=st.sampled_from(ResponseMode),
    blocking_ok=st.booleans(),
)
SAMPLES = st.builds(
    Sample,
    kind=st.sampled_from(Kind),
    retry_after=st.none() | st.floats(-10, 1e12),
    elapsed=st.none() | st.floats(0, 1e6),
    quoted=st.none() | st.integers(-5, 10**6),
)
JITTER = st.floats(0, 1, exclude_max=True)
SECONDS = st.floats(0, 0.5) | st.floats(0, 400)
LONGEST_GATE = 300 * 1.25


class AnyServer(RuleBasedStateMachine):
    """Two apps of one server."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.ready = False

    @precondition(lambda self: not self.ready)
    @rule(limits=st.tuples(LIMITS, LIMITS), most=st.none() | st.integers(1, 60))
    def begin(self, limits, most):
        self.server = ServerPace(most)
        self.paces = [Pace(one, self.server) for one in limits]
        self.flights = [[], []]
        self.last_start = [-math.inf, -math.inf]
        self.ready = True

    @precondition(lambda self: self.ready)
    @rule(seconds=SECONDS)
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.ready)
    @rule(app=st.integers(0, 1), count=st.integers(1, 80))
    def start(self, app, count):
        pace = self.paces[app]
        for _ in range(count):
            if pace.room(self.now) <= 0 or pace.next_start(self.now) > self.now:
                break
            assert self.now >= pace.gate, "a start inside a closed gate"
            gap = self.now - self.last_start[app]
            assert gap >= pace.limits.min_gap - 1e-6
            if pace.limits.per_minute is not None:
                assert gap >= 60 / pace.limits.per_minute - 1e-6
            if not pace.proven:
                assert not self.flights[app], "a second row before the first was accepted"
            start = pace.started(self.now)
            assert start.mode is not ResponseMode.AUTO
            assert start.mode is ResponseMode.STREAMING or pace.limits.blocking_ok
            self.flights[app].append(start)
            self.last_start[app] = self.now
            assert len(self.flights[app]) <= pace.limits.ceiling
            assert self.server.most is None or sum(map(len, self.flights)) <= self.server.most

    @precondition(lambda self: self.ready)
    @rule(app=st.integers(0, 1), which=st.integers(0, 100))
    def accept(self, app, which):
        if self.flights[app]:
            flight = self.flights[app][which % len(self.flights[app])]
            self.paces[app].accepted(flight, self.now)

    @precondition(lambda self: self.ready)
    @rule(app=st.integers(0, 1), which=st.integers(0, 100), count=st.integers(1, 40), sample=SAMPLES, jitter=JITTER)
    def end(self, app, which, count, sample, jitter):
        pace, flights = self.paces[app], self.flights[app]
        for _ in range(min(count, len(flights))):
            before = pace.limit
            flight = flights.pop(which % len(flights))
            fresh = not pace.limits.fixed and pace.response_mode() is flight.mode
            pace.ended(flight, sample, self.now, jitter)
            if fresh and sample.kind in {Kind.UNKNOWN, Kind.OVERLOADED, Kind.DOWN, Kind.LEFT}:
                # A single OVERLOADED may complete a round that went well; nothing else may raise the limit.
                assert pace.limit <= before or sample.kind is Kind.OVERLOADED

    @precondition(lambda self: self.ready)
    @rule(app=st.integers(0, 1))
    def restart(self, app):
        """What was learned can be written and read; a pace that starts from it is a pace."""
        old = self.paces[app]
        again = Pace(old.limits)
        again.from_json(json.loads(json.dumps(old.to_json(), allow_nan=False)))
        assert 1 <= again.limit <= old.limits.ceiling
        assert again.room(self.now) <= 1

    @invariant()
    def numbers_are_numbers(self):
        if not self.ready:
            return
        for pace, flights in zip(self.paces, self.flights, strict=True):
            assert pace.in_flight == len(flights)
            assert 1 <= pace.limit <= pace.limits.ceiling
            assert 0 <= pace.room(self.now) <= max(0, pace.limits.ceiling - len(flights))
            assert math.isfinite(pace.gate)
            assert pace.gate <= self.now + LONGEST_GATE
            assert self.now <= pace.next_start(self.now) < math.inf
            why = pace.why(self.now)
            assert all(math.isfinite(number) for number in why.numbers.values())
        assert self.server.in_flight == sum(map(len, self.flights))


TestAnyServer = AnyServer.TestCase
TestAnyServer.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TROUBLE = st.lists(
    st.tuples(st.sampled_from([Kind.REJECT, Kind.EDGE, Kind.DOWN, Kind.UNKNOWN, Kind.OVERLOADED]), st.floats(0, 30)),
    min_size=1,
    max_size=40,
)


def has_recovered(pace, now):
    return pace.limit == pace.limits.most and pace.next_start(now + 1.0) == now + 1.0


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(trouble=TROUBLE, most=st.integers(2, 40))
def test_recovers_from_any_trouble(trouble, most):
    """Within two hours of good answers everything that is allowed is used again, and no rate is left."""
    pace = Pace(PaceLimits(most=most, mode=ResponseMode.STREAMING))
    now = 0.0
    for kind, wait in trouble:
        now = max(now + wait, pace.next_start(now))
        if pace.room(now) > 0:
            pace.ended(pace.started(now), Sample(kind), now)
    until = max(now, pace.gate) + 7200
    while now < until and not has_recovered(pace, now):
        now = max(now + 1.0, pace.gate)
        flights = []
        while pace.room(now) > 0 and pace.next_start(now) <= now:
            flights.append(pace.started(now))
            pace.accepted(flights[-1], now)
        for flight in flights:
            pace.ended(flight, Sample(Kind.OK), now + 0.5)
        now += 0.5
    assert has_recovered(pace, now)


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.sampled_from([Kind.REJECT, Kind.EDGE, Kind.DOWN]), min_size=2, max_size=20))
def test_the_gate_never_opens_earlier(kinds):
    pace = Pace(PaceLimits(fixed=30))
    pace.ended(pace.started(0.0), Sample(Kind.OK), 0.0)
    wave = []
    while pace.room(0.0) and len(wave) < len(kinds):
        wave.append(pace.started(0.0))
    gate = 0.0
    for number, (flight, kind) in enumerate(zip(wave, kinds, strict=False)):
        pace.ended(flight, Sample(kind), 0.01 * number)
        assert pace.gate >= gate
        gate = pace.gate


@pytest.mark.parametrize("kind", [Kind.OK, Kind.FAILED, Kind.LEFT])
def test_what_ends_in_no_time_divides_by_nothing(kind):
    pace = Pace(PaceLimits(most=50, blocking_ok=True, mode=ResponseMode.BLOCKING))
    for _ in range(200):
        start = pace.started(5.0)
        pace.ended(start, Sample(kind, elapsed=0.0), 5.0)
    assert 1 <= pace.limit <= 50
