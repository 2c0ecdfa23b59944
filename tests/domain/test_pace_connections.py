"""Blocking mode: a server's connections are few, not told, and one request more waits without an answer."""

from __future__ import annotations

import random
from collections import deque

import pytest

from rowmill.domain.pace import Kind, Pace, PaceLimits, Reason, ResponseMode, Sample

STEP, OVERHEAD = 0.01, 0.03


class Connections:
    """Takes so many requests at once; the others wait in its backlog."""

    def __init__(self, connections, seconds, most=50):
        self.connections = connections
        self.pace = Pace(PaceLimits(most=most, mode=ResponseMode.BLOCKING, blocking_ok=True))
        self.now = 0.0
        self.peak = self.steps = self.crowded = 0
        self._seconds = seconds
        self._random = random.Random(7)
        self._backlog = deque()
        self._running = []

    def run(self, seconds):
        self.peak = self.steps = self.crowded = 0
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            self._end()
            while self.pace.room(self.now) > 0 and self.pace.next_start(self.now) <= self.now:
                self._backlog.append(self.pace.started(self.now))
            self._accept()
            self.peak = max(self.peak, self.pace.in_flight)
            self.steps += 1
            self.crowded += self.pace.in_flight > self.connections
        return self

    def _end(self):
        for flight in [one for one in self._running if one[1] <= self.now]:
            self._running.remove(flight)
            start, _, elapsed = flight
            self.pace.ended(start, Sample(Kind.OK, elapsed=elapsed), self.now)

    def _accept(self):
        while self._backlog and len(self._running) < self.connections:
            elapsed = self._seconds * self._random.uniform(0.7, 1.3)
            self._running.append((self._backlog.popleft(), self.now + elapsed + OVERHEAD, elapsed))


@pytest.mark.parametrize("seconds", [3.0, 8.0])
def test_ten_connections_are_found_and_kept(seconds):
    server = Connections(10, seconds).run(120)
    assert server.peak <= 12
    server.run(1500)
    assert server.peak <= 12
    assert server.crowded <= 0.03 * server.steps
    assert server.pace.why(server.now).reason is Reason.QUEUE
    assert server.pace.in_flight == 10


def test_ten_are_not_passed_by_more_than_one_at_a_time():
    server, before = Connections(40, 1.0, most=20), 10
    while server.pace.limit < 20 and server.now < 100:
        limit = server.run(STEP).pace.limit
        assert limit <= max(10, before) + 1
        before = limit
    assert server.pace.limit == 20


def test_connections_that_are_added_are_found():
    server = Connections(10, 3.0).run(200)
    assert server.pace.limit <= 11
    server.connections = 20
    server.run(700)
    assert server.pace.in_flight >= 19


def test_a_wait_for_the_core_is_no_wait_for_a_connection():
    """Runs of 0.2 s that wait 0.1 s for their turn keep a server busy: nothing is taken back up to ten."""
    pace, now = Pace(PaceLimits(most=10, mode=ResponseMode.BLOCKING, blocking_ok=True)), 0.0
    for number in range(400):
        flights = []
        while pace.room(now) > 0:
            flights.append(pace.started(now))
        now += 0.33
        for place, start in enumerate(flights):
            waited = 0.2 * place / max(1, len(flights) - 1) if number > 5 else 0.0
            pace.ended(start, Sample(Kind.OK, elapsed=0.3 - waited), now)
    assert (pace.limit, pace.why(now).reason) == (10, Reason.CAP)
