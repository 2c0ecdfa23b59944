"""How many at once, in one response mode: the heart of the pace (docs/design/pace.md).

Runs are judged in rounds: a round is over when most of a windowful of runs, all begun within it, has ended. What goes
well for a round lets the window grow; trouble cuts it at once and is remembered as a ceiling, to be tried again later
and only when successes have paid for the trial. A server's silent queue is not waited for but seen: runs that were sent
and did not begin are counted, and while some are overdue nothing new is sent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.domain.pace_budget import Budget
from rowmill.domain.pace_levels import Level, Levels, bucket
from rowmill.domain.pace_signals import Kind, Reason, ResponseMode, Sample, Start
from rowmill.domain.response_mode import Round

if TYPE_CHECKING:
    from rowmill.domain.pace_levels import Comparison

FIRST_SIZE = 2.0
# Doubling up to here, then by GROWTH, until the first trouble.
DOUBLING_UNTIL = 8.0
GROWTH = 1.5
# A server's connections are few and not told: looked for in small steps, where no run says that it has begun.
BLOCKING_GROWTH = 1.25
REGROWTH = 1.25
STEP = 0.05
FEWEST_PER_ROUND = 3
ROUND = 0.6
# Where runs get slower with the number at once, a round lasts until the slow ones have ended too.
LONG_ROUND = 1.5
SLOWER = 0.5
HALF = 0.5
USED = 0.8
# A run that has not begun after PATIENCE × the usual delay + LEEWAY waits in the server's queue.
PATIENCE = 3.0
LEEWAY = 0.3
# The usual delay is the shortest seen. It rises only on delays that our own load does not explain: beside less than
# half of the runs that the server was seen to run.
BASE_RISE = 1.05
SLOTS_MEMORY = 0.02
QUEUED = 0.3
# Rather an idle slot at the server than a row that would wait longer: after 300 s Dify forgets who asked.
LONGEST_WAIT = 30.0
# Blocking runs may wait so long, seconds: it keeps a busy server busy. More of them only hold its connections.
BLOCKING_WAIT = 0.1
FEWEST_WAITING = 0.6
OVERHEADS = 200
OVERLOAD_CUT = 0.75
OVERLOAD_NUDGE = 0.88
OVERLOAD_SHARE = 0.05
OVERLOAD_MEMORY = 40
FEWEST_OVERLOADS = 2
UNKNOWN_CUT = 0.5
CAREFUL = 60.0
SAME_CEILING = 1.15
SAME_WAVE = 2.0
FIRST_HOLD = 20.0
HOLD_IN_RUNS = 3.0
LONGEST_HOLD = 1200.0
# Looking for a queue, or for more speed, costs next to nothing.
LONGEST_CHEAP_HOLD = 300.0
# More at once has to bring this share of what it could; judged only at levels so far apart (log), with this certainty.
WORTH = 0.2
APART = 0.3
CERTAINTY = 1.2
# Run times that rise like the number at once, or nearly: perhaps fewer would do.
SUSPICIOUS = 0.7
TRY_LOWER = 0.6
ROUNDS_BETWEEN_TRIES = 12
FEWEST_TO_JUDGE = 8


@dataclass(slots=True)
class Trials:
    """What looking for the server's limits may cost, over all windows of a pace."""

    rejects: Budget
    failures: Budget

    @classmethod
    def new(cls) -> Trials:
        """2 % of the successes may be rejects, and 0.6 % billed failures, that a trial has caused."""
        return cls(Budget(8, 0.02, 8), Budget(3, 0.006, 3))

    @property
    def are_paid(self) -> bool:
        return not (self.rejects.is_empty or self.failures.is_empty)


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
    log_seconds: float = 0.0
    """sum over all_done"""
    overhead: float = 0.0
    overheads: int = 0


class Window:
    """The window of one response mode. Times are monotonic seconds; a number at once is called a level."""

    def __init__(self, mode: ResponseMode, most: int, trials: Trials) -> None:
        self.mode = mode
        self.size = min(FIRST_SIZE, float(most))
        self.reason = Reason.START
        self.quoted: int | None = None
        self.run_time = 0.0
        """seconds that a run takes lately, its wait for a slot not counted where it is known"""
        self.running = 0
        self._most = most
        self._trials = trials
        self._waiting: dict[Start, None] = {}  # oldest first
        self._base: float | None = None  # the usual delay of a start that need not wait
        self._slots = 0.0  # how many the server was seen to run, lately
        self._overheads: deque[float] = deque(maxlen=OVERHEADS)
        self._overloads: deque[bool] = deque(maxlen=OVERLOAD_MEMORY)
        self._levels = Levels()
        self._round = _Round(0.0)
        self._clean = 1.0
        """the largest size that went well for a round"""
        self._troubled = False
        self._ceiling = math.inf
        self._last_ceiling = math.inf
        self._hold = FIRST_HOLD
        self._probe_at = 0.0
        self._cut_at = -math.inf
        self._before_reject = 0.0
        self._rejected_at = -math.inf
        self._knee = False
        """whether the last trouble was that more brought nothing: then each size below the ceiling is in doubt"""
        self._steps = 0
        self._came_from: float | None = None
        self._tries = 0

    @property
    def _growth(self) -> float:
        return GROWTH if self.mode is ResponseMode.STREAMING else BLOCKING_GROWTH

    @property
    def limit(self) -> int:
        return max(1, min(math.floor(self.size + 1e-9), self.quoted or self._most, self._most))

    # ── starts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def room(self, now: float, in_flight: int) -> int:
        """How many more may start, `in_flight` counting both modes."""
        room = self.limit - in_flight
        if self.overdue(now) >= self._slack():
            return 0
        # One foot after the other on new ground, and more so after a reject: who is not yet answered may be about to be
        # refused.
        careful = now - self._rejected_at < CAREFUL
        if careful or in_flight >= self._clean:
            room = min(room, self._unanswered(0.0 if careful else 0.1) - len(self._waiting))
        return max(0, room)

    def _unanswered(self, share: float) -> int:
        usual = (self._base or 0.0) / self.run_time if self.run_time else 0.0
        return math.ceil(max(1.0, self.size * (share + 1.5 * usual)))

    def _slack(self) -> int:
        """So many may wait at the server, so that a slot that falls free finds the next one there."""
        return 1 + self.running // 10

    def overdue(self, now: float) -> int:
        """How many wait in the server's queue."""
        count = 0
        patience = self._patience()
        for start in self._waiting:
            if now - start.at <= patience:
                break
            count += 1
        return count

    def _patience(self) -> float:
        return PATIENCE * (self._base or 0.0) + LEEWAY

    def started(self, start: Start, in_flight: int) -> None:
        self._round.peak = max(self._round.peak, in_flight)
        if self.mode is ResponseMode.STREAMING:
            self._waiting[start] = None

    def accepted(self, start: Start, now: float) -> None:
        """The run has begun."""
        if start in self._waiting:
            del self._waiting[start]
            self.running += 1
        start.accepted_at, start.running = now, self.running
        self._slots += max(self.running - self._slots, SLOTS_MEMORY * (self.running - self._slots))
        delay = now - start.at
        self._round.accepted += 1
        self._round.queued += self._base is not None and delay > self._patience()
        ours = 2 * self.running >= self._slots
        self._base = delay if self._base is None else min(delay, self._base * (1 if ours else BASE_RISE))

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, start: Start) -> None:
        """It is no longer in flight, however it ended."""
        if start in self._waiting:
            del self._waiting[start]
        elif self.mode is ResponseMode.STREAMING and start.accepted_at is not None:
            self.running -= 1

    def ran(self, start: Start, sample: Sample, now: float) -> Round | None:
        """A run ended, well or badly. The round that this completes, if it does."""
        seconds = now - (start.accepted_at if start.accepted_at is not None else start.at)
        self.run_time += (0.1 if self.run_time else 1.0) * (seconds - self.run_time)
        if sample.kind is Kind.OK:
            self._levels.add(start.running or start.level + 1, seconds, now)
        self._note_overhead(start, sample, now)
        self._round.all_done += 1
        if start.at >= self._round.began:
            self._round.done += 1
        if start.at >= self._cut_at:
            self._overloads.append(sample.kind is Kind.OVERLOADED)
            if sample.kind is Kind.OVERLOADED and self._is_overload(start):
                cut = OVERLOAD_CUT if self.size > self._last_ceiling or not self._troubled else OVERLOAD_NUDGE
                self.cut(cut * self.size, Reason.OVERLOAD, now, self.size)
                return None
        self._round.log_seconds += math.log(max(seconds, 0.001))
        share = LONG_ROUND if self._is_slower(now) else ROUND
        if self._round.done < max(FEWEST_PER_ROUND, share * self.limit):
            return None
        return self._turn(now)

    def _note_overhead(self, start: Start, sample: Sample, now: float) -> None:
        if self.mode is not ResponseMode.BLOCKING or sample.elapsed is None:
            return
        overhead = max(0.0, now - start.at - sample.elapsed)
        self._overheads.append(overhead)
        if start.at >= self._round.began:
            self._round.overhead += overhead
            self._round.overheads += 1

    def _is_overload(self, start: Start) -> bool:
        """A share of failures that is no accident; on new ground the first one is warning enough."""
        count = sum(self._overloads)
        if start.running > self._clean and count == 1:
            return True
        return count >= FEWEST_OVERLOADS and count > OVERLOAD_SHARE * len(self._overloads)

    def rejected(self, others: int, now: float) -> None:
        """The server took no more beside `others`: so many it takes."""
        self._rejected_at = now
        if others < self.size:
            self._before_reject = max(self._before_reject, self.size)
            self.cut(others, Reason.REJECTED, now, others + 1)

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
            short = reason in (Reason.QUEUE, Reason.NO_FASTER)
            longest = max(LONGEST_CHEAP_HOLD, 10 * self.run_time) if short else LONGEST_HOLD
            self._hold = min(max(first, 2 * self._hold if same and self._troubled else first), longest)
        self._probe_at = now + self._hold
        self._ceiling = self._last_ceiling = max(2.0, ceiling)
        self._troubled = True
        self.size = max(1.0, size)
        self._clean = min(self._clean, self.size)
        self.reason = reason
        self._knee = reason is Reason.NO_FASTER
        self._steps, self._came_from = 0, None
        self._cut_at = now
        self._overloads.clear()
        self._round = _Round(now)

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, now: float) -> Round:
        ended = self._round
        speed = ended.all_done / max(now - ended.began, 1e-6)
        queued = self._queue(ended, speed, now)
        before = self.size
        if queued is not None:
            self._settle_queue(queued, now)
        elif not self._find_knee(now) and ended.peak >= USED * self.limit:
            self._clean = max(self._clean, self.size)
            self._before_reject = 0.0
            self._grow(now)
        self._round = _Round(now, peak=self.running + len(self._waiting))
        return Round(
            self.mode, ended.all_done, now - ended.began, queued=queued is not None, growing=self.size > before
        )

    def _queue(self, ended: _Round, speed: float, now: float) -> float | None:
        """How many wait at the server, if that is more than it needs."""
        if self.mode is ResponseMode.STREAMING:
            waiting = self.overdue(now)
            if waiting >= self._slack() or ended.queued > QUEUED * max(1, ended.accepted):
                return float(max(1, waiting))
            return None
        if not ended.overheads:
            return None
        base = sorted(self._overheads)[len(self._overheads) // 10]
        waiting_long = speed * max(0.0, ended.overhead / ended.overheads - base)  # Little's law
        return waiting_long if waiting_long > max(FEWEST_WAITING, BLOCKING_WAIT * speed) else None

    def _settle_queue(self, waiting: float, now: float) -> None:
        if self.mode is ResponseMode.BLOCKING:
            self.cut(self.size - max(1.0, 0.6 * waiting), Reason.QUEUE, now, self.size)
            return
        self.reason = Reason.QUEUE
        running = max(1, self.running)
        if self.run_time / running > LONGEST_WAIT:
            self.cut(running, Reason.QUEUE, now, running + 1)
            return
        self.size = max(1.0, min(self.size, float(max(running, round(self._slots)) + self._slack())))
        self._clean = min(self._clean, self.size)

    def _grow(self, now: float) -> None:
        size = self.size
        if not self._troubled:
            size *= 2 if size < DOUBLING_UNTIL else self._growth
        elif math.floor(size) < math.floor(self._clean):
            size = min(self._clean, REGROWTH * size + 1)
        elif self._may_try(now):
            size += max(1.0, STEP * size * 2.0 ** min(self._steps, 6))
            if size > self._ceiling:
                self._ceiling = math.inf
            self._steps += 1
            size = min(size, self._growth * self.size + 1, max(self._ceiling, self.size + 1))
        most = float(min(self._most, self.quoted or self._most))
        if size > self.size or not self._troubled:
            self.reason = Reason.GROWING
        self.size = min(size, most)
        if self.size >= most:
            self.reason = Reason.QUOTED if self.quoted == most else Reason.CAP

    def _may_try(self, now: float) -> bool:
        """Whether to go where it is not known to go well."""
        if not self._trials.are_paid or any(self._overloads):
            return False
        return now >= self._probe_at or (self.size + 1 < self._ceiling and not self._knee)

    # ── does more at once bring more? ───────────────────────────────────────────────────────────────────────────

    def _find_knee(self, now: float) -> bool:
        """Go to a better level, if one is known or to be looked for. True if the size was changed."""
        known = self._levels.known(now)
        here = known.get(bucket(self.limit)) or known.get(bucket(self.limit) - 1)
        if here is None:
            return False
        if self._came_from is not None:
            return self._judge_lower(here, known, now)
        better = self._better_below(here, known)
        if better is not None:
            self.cut(round(math.exp(better.number)), Reason.NO_FASTER, now, self.size)
            return True
        shown = self._against_half(now)
        settled = self._round.done >= LONG_ROUND * self.limit
        if settled and shown is not None and self._is_useless(shown, CERTAINTY):
            self.cut(max(1.0, HALF * self.size), Reason.NO_FASTER, now, self.size)
            return True
        return self._try_lower(here, known, now)

    def _against_half(self, now: float) -> Comparison | None:
        """This round's runs against those at half the number or less."""
        half = math.log(self.limit) - math.log(2) + 1e-6
        low = Level()
        for level in self._levels.known(now).values():
            if level.number <= half:
                low.merge(level)
        ended = self._round
        if not low.weight or not ended.all_done:
            return None
        here = Level(ended.all_done, ended.log_seconds / ended.all_done, 0.0, math.log(self.limit))
        return self._levels.compare(low, here)

    def _is_slower(self, now: float) -> bool:
        shown = self._against_half(now)
        return shown is not None and shown.gain < (1 - SLOWER) * shown.distance

    def _is_useless(self, shown: Comparison, certainty: float) -> bool:
        return shown.gain + certainty * shown.error < WORTH * shown.distance

    def _better_below(self, here: Level, known: dict[int, Level]) -> Level | None:
        better: Level | None = None
        for low in known.values():
            shown = self._levels.compare(low, here)
            useless = shown.distance > APART and self._is_useless(shown, CERTAINTY)
            if useless and (better is None or low.speed > better.speed):
                better = low
        return better

    def _try_lower(self, here: Level, known: dict[int, Level], now: float) -> bool:
        """Nothing is known below, and above run times rise like the number: look below."""
        self._tries = max(0, self._tries - 1)
        if self._tries or self.limit == 1 or self.reason is not Reason.NO_FASTER:
            return False
        higher = [level for level in known.values() if level.number > here.number + APART]
        if not higher or any(level.number < here.number - APART for level in known.values()):
            return False
        shown = self._levels.compare(here, higher[0])
        if shown.gain > (1 - SUSPICIOUS) * shown.distance:
            return False
        came_from = self.size
        self._resize(max(1.0, math.floor(TRY_LOWER * self.size)), now)
        self._came_from, self._tries = came_from, ROUNDS_BETWEEN_TRIES
        return True

    def _judge_lower(self, here: Level, known: dict[int, Level], now: float) -> bool:
        came_from = self._came_from or self.size
        former = known.get(bucket(came_from)) or known.get(bucket(came_from) - 1)
        if former is not None and former is not here:
            if here.weight < FEWEST_TO_JUDGE:
                return True  # not yet
            shown = self._levels.compare(here, former)
            if shown.gain > WORTH * shown.distance:
                self._came_from = None
                self._resize(came_from, now)
                return True
        self._came_from, self._tries = None, 0
        self._clean = self.size
        return True

    def _resize(self, size: float, now: float) -> None:
        self.size = max(1.0, size)
        self._round = _Round(now)

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
        self.size = max(1.0, min(float(learned["size"]), float(self._most)))
        self.quoted = learned.get("quoted")
        self.run_time = float(learned.get("run_time") or 0.0)
        self._troubled = bool(learned.get("troubled"))
