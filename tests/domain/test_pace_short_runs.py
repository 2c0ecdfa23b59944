"""Short runs behind few slots: nobody waits long, and yet blocking mode brings several times as much."""

from __future__ import annotations

from rowmill.domain.pace import Kind, Pace, PaceLimits, Reason, ResponseMode, Sample

SECONDS, DELAY, SLOTS = 0.3, 0.01, 4


def play(limits: PaceLimits, rows: int) -> tuple[float, ResponseMode]:
    """How long so many rows take where streaming runs share four slots and blocking ones do not, and the last mode."""
    pace, now, done = Pace(limits), 0.0, 0
    waiting, running, blocking = [], [], []
    while done < rows:
        now += 0.01
        for start, ends in [pair for pair in running + blocking if pair[1] <= now]:
            (running if start.mode is ResponseMode.STREAMING else blocking).remove((start, ends))
            pace.ended(start, Sample(Kind.OK, elapsed=SECONDS), now)
            done += 1
        while waiting and len(running) < SLOTS and now >= waiting[0].at + DELAY:
            start = waiting.pop(0)
            pace.accepted(start, now)
            running.append((start, now + SECONDS))
        while pace.room(now) > 0 and pace.next_start(now) <= now:
            start = pace.started(now)
            if start.mode is ResponseMode.STREAMING:
                waiting.append(start)
            else:
                blocking.append((start, now + DELAY + SECONDS))
    return now, pace.response_mode()


def test_blocking_is_found_to_pay() -> None:
    seconds, mode = play(PaceLimits(blocking_ok=True), 400)
    assert mode is ResponseMode.BLOCKING
    assert seconds < 0.5 * play(PaceLimits(mode=ResponseMode.STREAMING), 400)[0]


def test_where_a_lost_reply_could_not_be_found_runs_stream() -> None:
    _, mode = play(PaceLimits(blocking_ok=False), 100)
    assert mode is ResponseMode.STREAMING


def test_very_short_runs_that_wait_for_slots_are_not_sent_in_greater_numbers() -> None:
    """Nobody waits for long enough to be overdue, so that nothing else would keep the number down."""
    pace, now, waiting, running, peak = Pace(PaceLimits(mode=ResponseMode.STREAMING)), 0.0, [], [], 0
    while now < 60:
        now += 0.01
        for start, ends in [pair for pair in running if pair[1] <= now]:
            running.remove((start, ends))
            pace.ended(start, Sample(Kind.OK), now)
        while waiting and len(running) < SLOTS and now >= waiting[0].at + DELAY:
            pace.accepted(waiting[0], now)
            running.append((waiting.pop(0), now + 0.1))
        while pace.room(now) > 0 and pace.next_start(now) <= now:
            waiting.append(pace.started(now))
        peak = max(peak, pace.in_flight)
    assert peak <= 10
    assert pace.why(now).reason is Reason.QUEUE
