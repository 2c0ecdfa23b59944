"""The store in SQLite says what the store in memory says, whatever is written in whatever groups."""

from __future__ import annotations

import shutil
import tempfile
from itertools import chain
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.ports.building import B, fill

from rowmill.domain.batch import Outcome, RowMove, RunStatus
from rowmill.ports.store import Again, Ask, Attach, AttemptKey, Break, Finish, GiveUp, Intend, Lose, Refuse
from rowmill.store.memory import MemoryStore
from rowmill.store.sql import SqlStore

ROWS = 6
SAME = (0, 4, 5)
USERS = ("u0", "u1")
TALKS = (None, "a", "a", "a")

keys = st.builds(AttemptKey, st.just(B), st.integers(0, ROWS - 1), st.integers(1, 3))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "\ud800", "x\0y"]))
causes = st.sampled_from(["c1", "c2", "conversation_broken"])
due = st.one_of(st.none(), st.sampled_from([5.0, 50.0, 5000.0]))
outcomes = st.builds(
    Outcome,
    st.sampled_from(RunStatus),
    st.sampled_from(["{}", '{"a":1}']),
    error=texts,
    tokens=st.one_of(st.none(), st.integers(0, 9), st.just(10**20)),
    seconds=st.one_of(st.none(), st.just(2.5)),
    run_id=texts,
    task_id=texts,
    message_id=texts,
    conversation_id=texts,
    price=texts,
    asks=st.sampled_from([None, "[]", "[1]"]),
)
likely_moves = st.sampled_from([RowMove.SUCCEED, RowMove.WAIT, RowMove.FAIL, RowMove.PUT_BACK, *RowMove])
records = st.one_of(
    st.builds(Intend, keys, st.integers(0, 1), st.sampled_from(USERS), st.sampled_from([1.0, 2.0])),
    st.builds(Attach, keys, texts, texts, texts, st.sampled_from([0.0, 0.5]), texts, texts),
    st.builds(Lose, keys, causes),
    st.builds(Ask, keys, outcomes, causes, st.one_of(st.none(), st.just(1.0))),
    st.builds(Finish, keys, likely_moves, outcomes, texts, st.one_of(st.none(), st.just(1.0)), due),
    st.builds(Refuse, keys, causes, texts, st.one_of(st.none(), likely_moves), due, st.booleans()),
    st.builds(GiveUp, keys, causes, texts),
    st.builds(Break, keys, st.sampled_from(["c1", "conversation_broken"])),
)


def usual_course(position: int, number: int, ending) -> list:
    key = AttemptKey(B, position, number)
    return [Intend(key, position % 2, USERS[position % 2], 1.0), *[step(key) for step in ending]]


endings = st.sampled_from(
    [
        [],
        [lambda k: Attach(k, "r", "t")],
        [lambda k: Lose(k, "c1")],
        [lambda k: GiveUp(k, "c2")],
        [lambda k: Refuse(k, "c1", due_at=5.0, move=RowMove.WAIT)],
        [lambda k: Ask(k, Outcome(RunStatus.PAUSED, asks="[]"), "c2")],
        [lambda k: Finish(k, RowMove.FAIL, Outcome(RunStatus.FAILED, tokens=3), "c1")],
    ]
)
courses = st.builds(usual_course, st.integers(0, ROWS - 1), st.integers(1, 3), endings)
groups = st.lists(st.one_of(records.map(lambda r: [r]), courses), max_size=12).map(
    lambda many: list(chain.from_iterable(many))
)


class Comparison(RuleBasedStateMachine):
    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp(prefix="rowmill-model-"))
        self.sql = SqlStore(self.folder / "rowmill.db")
        self.model = MemoryStore()
        self.fence = fill(self.sql, ROWS, talks=TALKS, same=SAME)
        assert fill(self.model, ROWS, talks=TALKS, same=SAME) == self.fence

    @rule(group=groups)
    def write(self, group):
        assert self.sql.write(group, self.fence) == self.model.write(group, self.fence)

    @rule(cause=st.one_of(st.none(), causes))
    def retry(self, cause):
        assert self.sql.retry(B, Again(cause)) == self.model.retry(B, Again(cause))

    @rule(positions=st.lists(st.integers(0, ROWS), max_size=2).map(tuple), inputs=st.sampled_from([None, {"q": "new"}]))
    def retry_some(self, positions, inputs):
        again = Again(None, positions, inputs)
        assert self.sql.retry(B, again) == self.model.retry(B, again)

    @rule()
    def share(self):
        assert self.sql.share_results(B) == self.model.share_results(B)

    @rule()
    def take_over(self):
        self.fence = self.sql.take_over("again")
        assert self.model.take_over("again") == self.fence

    @rule()
    def reopen(self):
        self.sql.close()
        self.sql = SqlStore(self.folder / "rowmill.db")

    @rule(
        now=st.sampled_from([0.0, 10.0, 100.0]),
        after=st.integers(-1, 3),
        limit=st.integers(1, 4),
        until=st.integers(0, 4),
    )
    def startable(self, now, after, limit, until):
        assert self.sql.startable(B, now, after, limit, until) == self.model.startable(B, now, after, limit, until)

    @rule(position=st.integers(-1, 3), until=st.one_of(st.none(), st.integers(0, 4)))
    def next_turns(self, position, until):
        turns = [("a", position), ("b", position)]
        assert self.sql.next_turns(B, turns, until) == self.model.next_turns(B, turns, until)

    @invariant()
    def both_say_the_same(self):
        if not hasattr(self, "sql"):
            return
        for ask in (
            lambda store: list(store.results(B)),
            lambda store: store.counts(B),
            lambda store: store.causes(B),
            lambda store: store.prices(B),
            lambda store: store.spent(B, with_price=True),
            lambda store: store.open_attempts(B),
            lambda store: store.busy_slots(B),
            lambda store: [store.known_runs(B, user) for user in USERS],
            lambda store: [store.known_talk(B, user, ["a", "b"]) for user in USERS],
            lambda store: [store.unsettled(B, user) for user in USERS],
            lambda store: store.next_due(B),
            lambda store: store.to_check(B, 0, 2),
            lambda store: store.asking(B, 2),
            lambda store: store.batches(),
            lambda store: store.versions(B),
            lambda store: store.batch(B),
        ):
            assert ask(self.sql) == ask(self.model)

    @invariant()
    def no_row_is_lost(self):
        if hasattr(self, "sql"):
            assert sum(self.sql.counts(B).by_state.values()) == ROWS

    def teardown(self):
        if hasattr(self, "sql"):
            self.sql.close()
            shutil.rmtree(self.folder)


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
