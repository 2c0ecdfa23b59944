"""How many at once, in one response mode: the heart of the pace (docs/design/pace.md).

Runs are judged in rounds: a round is over when most of a windowful of runs, all begun within it, has ended. What goes
well for a round lets the window grow; trouble cuts it at once and is remembered as a ceiling, to be tried again later
and only when successes have paid for the trial. A server's silent queue is not waited for but seen: runs that were sent
and did not begin are counted, and while some are overdue nothing new is sent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from rowmill.domain.pace_budget import FAILURES_FORGIVEN, Trials
from rowmill.domain.pace_knee import Knee
from rowmill.domain.pace_queue import Queue
from rowmill.domain.pace_signals import Kind, Reason, ResponseMode, Sample, Start, positive
from rowmill.domain.response_mode import Round

FIRST_SIZE = 2.0
# Dify's default: one worker with so many connections; one request more waits unanswered. Doubling up to here …
CONNECTIONS = 10.0
# … then, until the first trouble, by GROWTH; but in blocking mode, where no run says that it has begun, by STEP.
GROWTH = 1.5
REGROWTH = 1.25
# After trouble: by such steps, each twice the last one (streaming).
STEP = 0.05
FEWEST_PER_ROUND = 3
# Where so many of the starts are late, runs wait for slots: not long enough to take anything back, but reason enough to
# try the other mode, and none for more of runs so short that they end before one that waits is overdue.
MOST_LATE = 0.5
ROUND = 0.6
# Where runs get slower with the number at once, a round lasts until the slow ones have ended too.
LONG_ROUND = 1.5
USED = 0.8
QUEUED = 0.3
SOME_QUEUED = 0.1
# Rather an idle slot at the server than a row that would wait longer: after 300 s Dify forgets who asked.
LONGEST_WAIT = 30.0
# Blocking runs may wait so long, seconds, for the API's core: it keeps a busy server busy. Beyond Dify's default number
# of connections longer waits than this, for each one at once, are taken for those of runs without a connection, and
# their number is left alone for so long at least.
BLOCKING_WAIT = 0.16
UNCONNECTED_WAIT = 0.005
MOST_UNCONNECTED_WAIT = 0.1
FEWEST_WAITING = 0.6
CONNECTIONS_HOLD = 300.0
# Over less time than this the waits of a few short blocking runs are chance.
BLOCKING_ROUND = 1.0
OVERLOAD_CUT = 0.75
OVERLOAD_NUDGE = 0.88
OVERLOAD_SHARE = 0.05
OVERLOAD_MEMORY = 40
FEWEST_OVERLOADS = 2
UNKNOWN_CUT = 0.5
# On new ground so much of the window may be unanswered beyond what is usual; so long after a reject nothing more.
NEW_GROUND = 0.1
CAREFUL = 60.0
NEAR = 0.9
SAME_CEILING = 1.15
SAME_WAVE = 2.0
FIRST_HOLD = 20.0
HOLD_IN_RUNS = 3.0
CALM_IN_RUNS = 3.0
LONGEST_HOLD = 1200.0
# Looking for a queue, or for more speed, costs next to nothing.
LONGEST_CHEAP_HOLD = 300.0
# … and a reject costs what the gate is closed for.
WAIT_TO_HOLD = 40.0


@dataclass(slots=True)
class _Round:
    """What the present round has seen."""

    began: float
    done: int = 0
    """ended runs that also began in it"""
    all_done: int = 0
    peak: int = 0
    accepted: int = 0
    queued: int = 0
    late: int = 0
    seconds: float = 0.0
    """sum of log run times over done"""
    all_seconds: float = 0.0
    """… over all_done"""
    overheads: list[float] = field(default_factory=list)


class Window:
    """The window of one response mode. Times are monotonic seconds; a number at once is called a level."""

    def __init__(self, mode: ResponseMode, most: int, trials: Trials) -> None:
        self.mode = mode
        self.size = min(FIRST_SIZE, float(most))
        self.reason = Reason.START
        self.quoted: int | None = None
        self.run_time = 0.0
        """seconds that a run takes lately, its wait for a slot not counted where it is known"""
        self.queue = Queue()
        self._most = most
        self._trials = trials
        self._overloads: deque[bool] = deque(maxlen=OVERLOAD_MEMORY)
        self._knee = Knee()
        self._round = _Round(0.0)
        self._clean = 1.0
        """the largest size that went well for a round"""
        self._troubled = False
        self._ceiling = math.inf
        self._last_ceiling = math.inf
        self._costly = math.inf
        """the last ceiling that cost rejects, failures or replies: to come near it has to be paid for"""
        self._hold = FIRST_HOLD
        self._probe_at = 0.0
        self._cut_at = -math.inf
        self._before_reject = 0.0
        self._rejected_at = -math.inf
        self._in_doubt = False
        """whether the last trouble was that more brought nothing: then each size below the ceiling is in doubt"""
        self._steps = 0

    @property
    def limit(self) -> int:
        return max(1, min(math.floor(self.size + 1e-9), self.quoted or self._most, self._most))

    # ── starts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def room(self, now: float, in_flight: int) -> int:
        """How many more may start, `in_flight` counting both modes."""
        room = self.limit - in_flight
        if self.queue.overdue(now) >= self.queue.slack:
            return 0
        # One foot after the other on new ground, and more so after a reject: who is not yet answered may be about to be
        # refused.
        careful = now - self._rejected_at < CAREFUL
        if careful or in_flight >= self._clean:
            unanswered = self.queue.unanswered(self.size, self.run_time, 0.0 if careful else NEW_GROUND)
            room = min(room, unanswered - self.queue.waiting)
        return max(0, room)

    def started(self, start: Start, in_flight: int) -> None:
        self._round.peak = max(self._round.peak, in_flight)
        if self.mode is ResponseMode.STREAMING:
            self.queue.sent(start)

    def accepted(self, start: Start, now: float) -> None:
        """The run has begun."""
        self._round.accepted += 1
        self._round.late += self.queue.is_late(now - start.at)
        self._round.queued += self.queue.began(start, now)
        start.accepted_at, start.running = now, self.queue.running

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, start: Start) -> None:
        """It is no longer in flight, however it ended."""
        if self.mode is ResponseMode.STREAMING:
            self.queue.leave(start)

    def ran(self, start: Start, sample: Sample, now: float) -> Round | None:
        """A run ended, well or badly. The round that this completes, if it does."""
        seconds = now - (start.accepted_at if start.accepted_at is not None else start.at)
        self.run_time += (0.1 if self.run_time else 1.0) * (seconds - self.run_time)
        if sample.kind is Kind.OK:
            self._knee.add(start.running or start.level + 1, seconds, now)
        self._note_overhead(start, sample, now)
        self._round.all_done += 1
        log_seconds = math.log(max(seconds, 0.001))
        self._round.all_seconds += log_seconds
        if start.at >= self._round.began:
            self._round.done += 1
            self._round.seconds += log_seconds
        if start.at >= self._cut_at:
            self._overloads.append(sample.kind is Kind.OVERLOADED)
            if sample.kind is Kind.OVERLOADED and self._is_overload(start):
                cut = OVERLOAD_CUT if self.size > self._last_ceiling or not self._troubled else OVERLOAD_NUDGE
                self.cut(cut * self.size, Reason.OVERLOAD, now, self.size)
                return None
        if not self._is_over(now):
            return None
        return self._turn(now)

    def _is_over(self, now: float) -> bool:
        """Whether the round is: most of a windowful has gone through."""
        done = self._round.done
        if done < max(FEWEST_PER_ROUND, ROUND * self.limit):
            return False
        if self.mode is ResponseMode.BLOCKING and now - self._round.began < BLOCKING_ROUND:
            return False
        so_far = self._round
        slower = self._knee.is_slower(self.limit, so_far.all_done, so_far.all_seconds, now)
        return not slower or done >= LONG_ROUND * self.limit

    def _note_overhead(self, start: Start, sample: Sample, now: float) -> None:
        if self.mode is not ResponseMode.BLOCKING or sample.elapsed is None:
            return
        overhead = max(0.0, now - start.at - sample.elapsed)
        self.queue.took_longer(overhead)
        if start.at >= self._round.began:
            self._round.overheads.append(overhead)

    def _is_overload(self, start: Start) -> bool:
        """A share of failures that is no accident; on new ground the first one is warning enough."""
        count = sum(self._overloads)
        if start.running > self._clean and count == 1:
            return True
        return count >= FEWEST_OVERLOADS and count > OVERLOAD_SHARE * len(self._overloads)

    def rejected(self, others: int, now: float, wait: float) -> None:
        """The server took no more beside `others`: so many it takes. `wait`: what the reject costs, seconds."""
        self._rejected_at = now
        if others < self.size:
            self._before_reject = max(self._before_reject, self.size)
            self.cut(others, Reason.REJECTED, now, others + 1)
            self._hold = min(self._hold, max(LONGEST_CHEAP_HOLD, WAIT_TO_HOLD * wait))
            self._probe_at = now + self._hold

    def pardon(self, now: float) -> None:
        """The last rejects were about the rate, not about the number at once."""
        self._rejected_at = now
        if self.reason is Reason.REJECTED and self._before_reject:
            self.size = max(self.size, self._before_reject)
            self._ceiling = self._last_ceiling = math.inf
            self.reason, self._before_reject = Reason.GROWING, 0.0

    def enter(self, running: int, now: float) -> None:
        """This mode is the chosen one from now on, where the other had so many running."""
        if self.size < running:
            self.size = float(running)
        self._round = _Round(now)

    def lost(self, now: float) -> None:
        """A reply was lost: the queue may have been too long."""
        if now - self._cut_at > max(SAME_WAVE, self.run_time):
            self.cut(UNKNOWN_CUT * self.size, Reason.UNKNOWN, now, self.size)

    def cut(self, size: float, reason: Reason, now: float, ceiling: float) -> None:
        """Trouble at `ceiling`: go on with `size`, and do not try the ceiling again for a while."""
        if now - self._cut_at > SAME_WAVE:
            same = ceiling <= SAME_CEILING * self._last_ceiling
            first = max(FIRST_HOLD, HOLD_IN_RUNS * self.run_time)
            blind = self.mode is ResponseMode.BLOCKING and reason is Reason.QUEUE
            short = reason in (Reason.QUEUE, Reason.NO_FASTER) and not blind
            longest = max(LONGEST_CHEAP_HOLD, 10 * self.run_time) if short else LONGEST_HOLD
            self._hold = min(max(first, 2 * self._hold if same and self._troubled else first), longest)
        self._probe_at = now + self._hold
        self._ceiling = self._last_ceiling = max(2.0, ceiling)
        self._troubled = True
        self.size = max(1.0, size)
        self._clean = min(self._clean, self.size)
        self.reason = reason
        if reason not in (Reason.QUEUE, Reason.NO_FASTER):
            self._costly = ceiling
        self._in_doubt = reason is Reason.NO_FASTER
        self._steps = 0
        self._knee.forget_trial()
        self._cut_at = now
        self._overloads.clear()
        self._round = _Round(now)

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, now: float) -> Round:
        ended = self._round
        speed = ended.all_done / max(now - ended.began, 1e-6)
        queued = self._queue(ended, speed, now)
        late = ended.late >= MOST_LATE * max(1, ended.accepted)
        before = self.size
        if queued is not None:
            self._settle_queue(queued, now)
        elif late and self.queue.hides(self.run_time):
            self.reason = Reason.QUEUE
        elif not self._follow_knee(ended, now) and ended.peak >= USED * self.limit:
            self._clean = max(self._clean, self.size)
            self._before_reject = 0.0
            self._grow(now)
        self._round = _Round(now, peak=self.queue.running + self.queue.waiting)
        growing = self.size > before
        return Round(self.mode, ended.all_done, now - ended.began, queued=late or queued is not None, growing=growing)

    def _queue(self, ended: _Round, speed: float, now: float) -> float | None:
        """How many wait at the server, if that is more than it needs."""
        if self.mode is ResponseMode.STREAMING:
            waiting, share = self.queue.overdue(now), ended.queued / max(1, ended.accepted)
            if share > QUEUED or (waiting >= self.queue.slack and share > SOME_QUEUED):
                return float(max(1, waiting))
            return None
        if not ended.overheads:
            return None
        usual, is_beyond = self.queue.usual_overhead, self.limit > CONNECTIONS
        allowed = min(UNCONNECTED_WAIT * self.limit, MOST_UNCONNECTED_WAIT) if is_beyond else BLOCKING_WAIT
        most_wait = is_beyond and median(ended.overheads) - usual > allowed
        on_average = speed * max(0.0, fmean(ended.overheads) - usual)  # Little's law
        return on_average if most_wait or on_average > max(FEWEST_WAITING, allowed * speed) else None

    def _settle_queue(self, waiting: float, now: float) -> None:
        if self.mode is ResponseMode.BLOCKING:
            crowded = self.limit
            self.cut(math.floor(crowded - max(1.0, 0.6 * waiting)), Reason.QUEUE, now, crowded)
            if crowded > CONNECTIONS:
                self._hold = max(self._hold, CONNECTIONS_HOLD)
                self._probe_at = now + self._hold
            return
        self.reason = Reason.QUEUE
        running = max(1, self.queue.running)
        if self.run_time / running > LONGEST_WAIT:
            self.cut(running, Reason.QUEUE, now, running + 1)
            return
        self.size = max(1.0, min(self.size, float(max(running, round(self.queue.slots)) + self.queue.slack)))
        self._clean = min(self._clean, self.size)

    def _grow(self, now: float) -> None:
        size = self.size
        if not self._troubled and size < CONNECTIONS:
            size = min(2 * size, CONNECTIONS)
        elif not self._troubled and self.mode is ResponseMode.STREAMING:
            size *= GROWTH
        elif math.floor(size) < math.floor(self._clean):
            size = min(self._clean, REGROWTH * size + 1)
        elif self._may_try(now):
            doublings = min(self._steps, 6) if self.mode is ResponseMode.STREAMING else 0
            size += max(1.0, STEP * size * 2.0**doublings)
            if size > self._ceiling:
                self._ceiling = math.inf
            self._steps += 1
            size = min(size, GROWTH * self.size + 1, max(self._ceiling, self.size + 1))
        most = float(min(self._most, self.quoted or self._most))
        if size > self.size or not self._troubled:
            self.reason = Reason.GROWING
        self.size = min(size, most)
        if self.size >= most:
            self.reason = Reason.QUOTED if self.quoted == most else Reason.CAP

    def _may_try(self, now: float) -> bool:
        """Whether to go where it is not known to go well."""
        if self.size + 1 > NEAR * self._costly and not self._is_paid(now):
            return False
        return now >= self._probe_at or (self.size + 1 < self._ceiling and not self._in_doubt)

    def _is_paid(self, now: float) -> bool:
        fresh = any(self._overloads) and now - self._cut_at < FAILURES_FORGIVEN
        return self._trials.are_paid(now) and not fresh

    def _follow_knee(self, ended: _Round, now: float) -> bool:
        """Does more at once bring more? True if the size was looked after."""
        if now - max(self._cut_at, self._rejected_at) < CALM_IN_RUNS * self.run_time:
            return False  # where starts were held back, those that end are the long ones
        # Only runs that began in this round: those that an outage or a cut left over are the long ones.
        settled = (ended.done, ended.seconds) if ended.done >= LONG_ROUND * self.limit else None
        in_doubt = self.reason is Reason.NO_FASTER
        advice = self._knee.advise(self.size, self.limit, now, settled, in_doubt=in_doubt)
        if advice is None:
            return False
        if advice.gains_nothing:
            self.cut(advice.size, Reason.NO_FASTER, now, self.size)
        self.size = max(1.0, advice.size)
        if advice.proven:
            self._clean = self.size
        return True

    # ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────

    def learn(self, quoted: int) -> None:
        """The app named its own limit: never above it again."""
        self.quoted = max(1, min(quoted, self.quoted or quoted))
        if self.size >= self.quoted:
            self.size, self.reason = float(self.quoted), Reason.QUOTED
        self._clean = min(self._clean, float(self.quoted))

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "quoted": self.quoted, "run_time": self.run_time, "troubled": self._troubled}

    def from_json(self, learned: dict[str, Any]) -> None:
        """Go on where a former process was; its ground is new ground again."""
        self.size = max(1.0, min(positive(learned.get("size")) or self.size, float(self._most)))
        quoted = positive(learned.get("quoted"))
        self.quoted = max(1, int(quoted)) if quoted else None
        self.run_time = positive(learned.get("run_time")) or 0.0
        self._troubled = learned.get("troubled") is True
