"""Every fault of the fake, through the whole engine: what becomes of the row, and how often it was paid for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchState, RowState
from rowmill.domain.form import Mode
from rowmill.testing.fake_dify import FakeDify, Fault
from tests.engine.running import queries, run_batch

OK, FAILED, UNKNOWN = RowState.SUCCEEDED, RowState.FAILED, RowState.UNKNOWN

# fault in the cell of row 3 -> (the row's state, its cause, runs that were paid for it)
CASES = {
    "too_many_400": (OK, None, 1),
    "too_many_429": (OK, None, 1),
    "edge_1015 retry_after=1": (OK, None, 1),
    "status code=503 message=down": (OK, None, 1),
    "status code=500": (OK, None, 1),
    "status code=500 times=-1": (FAILED, "server_error", 0),
    "status code=413 dify_code=request_entity_too_large": (FAILED, "too_large", 0),
    "status code=400 dify_code=invalid_param message=query_must_be_a_string": (FAILED, "bad_input", 0),
    "reset_after": (OK, None, 1),
    "gateway_504": (OK, None, 1),
    "reset_before": (UNKNOWN, "reply_lost", 0),
    "gateway_502_before": (UNKNOWN, "reply_lost", 0),
    "silent": (UNKNOWN, "reply_lost", 0),
    "cut_started": (OK, None, 1),
    "clean_eof_started": (OK, None, 1),
    "cut_end": (OK, None, 1),
    "stall": (OK, None, 1),
    "drip": (OK, None, 1),
    "drop_started": (OK, None, 1),
    "hold_started seconds=0.1": (OK, None, 1),
    "eof_no_id delay_s=0.1": (OK, None, 1),
    "detail_404_for seconds=0.1": (OK, None, 1),
    "cut_at_byte n=5": (OK, None, 1),
    "cut_at_byte n=150": (OK, None, 1),
    "cut_at_byte n=400": (OK, None, 1),
    "running_forever": (UNKNOWN, "run_never_ended", 1),
    "lost_run": (UNKNOWN, "run_never_ended", 1),
    "error_event": (FAILED, "run_failed", 1),
    "error_event message=queue_listening_stopped_unexpectedly.": (OK, None, 1),
    "status code=400 dify_code=invalid_param message=queue_listening_stopped": (UNKNOWN, "reply_lost", 0),
    "status code=504 body=html": (UNKNOWN, "reply_lost", 0),
    "status code=524 body=html": (UNKNOWN, "reply_lost", 0),
    "status code=415 dify_code=unsupported_media_type": (FAILED, "bad_input", 0),
    "status code=400 dify_code=conversation_completed": (FAILED, "conversation_gone", 0),
    "run_failed": (OK, None, 2),
    "run_failed times=-1": (FAILED, "model_rate_limit", 2),
    "run_failed message=node_broke": (FAILED, "run_failed", 1),
    "run_partial": (RowState.PARTIAL, None, 1),
    "run_stopped": (RowState.STOPPED, "stopped", 1),
    "run_paused": (RowState.WAITING, "needs_person", 1),
    "unknown_events": (OK, None, 1),
    "foreign_events": (OK, None, 1),
    "duplicate_finish": (OK, None, 1),
    "events_after_finish": (OK, None, 1),
    "invalid_utf8": (OK, None, 1),
    "one_byte_chunks": (OK, None, 1),
    "big_output bytes=3000000": (OK, None, 1),
}


@pytest.mark.parametrize("fault", CASES)
async def test_one_row_meets_a_fault(tmp_path: Path, fault: str) -> None:
    expected, cause, paid = CASES[fault]
    text = f"[[fault:{fault}]]"
    fake = FakeDify(hold_ms=0, celery_slots=0)
    fake.apps["app-echo"].form[0]["text-input"]["max_length"] = 256
    ran = await run_batch(tmp_path, queries(8, r3=text), fake)
    row = ran.rows[3]
    assert (row.state, row.cause) == (expected, cause)
    assert ran.runs_of(text) == paid
    assert all(other.state is OK for other in ran.rows if other.position != 3)
    assert ran.state is BatchState.COMPLETED
    if expected is OK:
        assert row.run_id in {run.run_id for run in fake.ledger.runs}
        assert json.loads(row.outputs or "{}") != {}


# A fault that every further row would meet: the batch pauses after at most the rows that were in flight.
PAUSES = {
    "status code=401 dify_code=unauthorized": "bad_key",
    "status code=403 dify_code=forbidden": "app_forbidden",
    "status code=400 dify_code=not_workflow_app": "wrong_mode",
    "status code=400 dify_code=invalid_param message=Workflow_not_published": "app_unpublished",
    "status code=404 dify_code=not_found message=Workflow_not_found_with_id": "workflow_version_gone",
    "status code=400 dify_code=provider_not_initialize": "model_not_set_up",
    "status code=400 dify_code=provider_quota_exceeded": "quota_used_up",
    "rate_limit_429": "quota_used_up",
    "status code=403 dify_code=workflow_version_execution_not_allowed": "workflow_version_not_allowed",
    "html_200": "not_dify",
    "redirect": "redirected",
}


def fault_of(text: str, **more: int) -> Fault:
    kind, *pairs = text.split()
    return Fault(kind, params=dict(pair.split("=", 1) for pair in pairs), **more)


@pytest.mark.parametrize("fault", PAUSES)
async def test_canary_pauses_the_batch(tmp_path: Path, fault: str) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    fake.faults.add(fault_of(fault, times=-1))
    ran = await run_batch(tmp_path, queries(20), fake)
    assert ran.state is BatchState.PAUSED
    assert ran.ending.cause == PAUSES[fault]
    assert fake.requests == 1, "only the canary met it"
    assert ran.states[RowState.PENDING] >= 19


async def test_model_without_a_key_pauses_after_the_first_wave(tmp_path: Path) -> None:
    """A run that was started and failed so costs; the window opens at its start, so a few more may meet it."""
    fake = FakeDify(hold_ms=0, celery_slots=0)
    fake.faults.add(fault_of("run_failed message=Incorrect_API_key_provided", times=-1))
    ran = await run_batch(tmp_path, queries(40), fake)
    assert (ran.state, ran.ending.cause) == (BatchState.PAUSED, "model_not_set_up")
    assert len(fake.ledger.runs) <= 1 + 2 * 4


async def test_key_revoked_half_way(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=20)
    fake.faults.add(fault_of("status code=401 dify_code=unauthorized", times=-1, after=10))
    ran = await run_batch(tmp_path, queries(40), fake)
    assert ran.ending.cause == "bad_key"
    assert ran.states[RowState.SUCCEEDED] == 10
    assert ran.states[RowState.PENDING] == 30, "refused rows are put back, none fails"
    assert fake.requests <= 10 + 4 + 1


@pytest.mark.parametrize("profile", ["1.8", "1.10", "1.11", "1.13", "1.14", "1.16", "cloud-proxy"])
async def test_every_profile_runs_a_batch(tmp_path: Path, profile: str) -> None:
    fake = FakeDify(profile, hold_ms=0, latency_ms=5)
    ran = await run_batch(tmp_path, queries(12), fake)
    assert ran.states == {RowState.SUCCEEDED: 12}
    assert ran.paid_twice == []


# profile -> what becomes of a row whose reply was lost before, and after, its run id was known
LOST = {
    "1.8": (UNKNOWN, UNKNOWN),
    "1.10": (UNKNOWN, OK),
    "1.11": (OK, OK),
    "1.13": (OK, OK),
    "1.14": (OK, OK),
    "1.16": (OK, OK),
}


@pytest.mark.parametrize("profile", LOST)
async def test_lost_replies_by_version(tmp_path: Path, profile: str) -> None:
    fake = FakeDify(profile, hold_ms=0)
    before, after = LOST[profile]
    ran = await run_batch(tmp_path, queries(8, r2="[[fault:reset_after]]", r5="[[fault:cut_started]]"), fake)
    assert (ran.rows[2].state, ran.rows[5].state) == (before, after)
    assert ran.paid_twice == []
    assert ran.states[OK] == 6 + (before is OK) + (after is OK)


async def test_row_of_a_chatflow(tmp_path: Path) -> None:
    texts = ["hello", "[[fault:cut_started]]", "你好 😀"]
    ran = await run_batch(tmp_path, texts, key="app-chatflow", mode=Mode.CHATFLOW)
    answers = [json.loads(row.outputs or "{}")["answer"] for row in ran.rows]
    assert answers == [f"echo: {text} name=" for text in texts]
    assert ran.rows[0].tokens == len("echo: hello name=")


@pytest.mark.parametrize(("mode", "key"), [(Mode.CHAT, "app-chat"), (Mode.AGENT_CHAT, "app-agent")])
async def test_chat_without_a_workflow(tmp_path: Path, mode: Mode, key: str) -> None:
    """No run id to ask for: a cut row is unknown, and says so at once."""
    ran = await run_batch(tmp_path, ["hello", "again"], key=key, mode=mode)
    assert ran.states == {OK: 2}
    assert json.loads(ran.rows[1].outputs or "{}") == {"answer": "echo: again name="}


async def test_silence_before_the_first_run_pauses(tmp_path: Path) -> None:
    """1.13 and 1.14 meet refused inputs with silence: the canary finds out, not the whole sheet."""
    fake = FakeDify(hold_ms=0, celery_slots=0, queue_idle_s=0.05)
    ran = await run_batch(tmp_path, ["x" * 60] * 10, fake)
    assert ran.state is BatchState.PAUSED
    assert ran.ending.cause == "run_not_started"
    assert ran.rows[0].state is UNKNOWN
    assert ran.states[RowState.PENDING] >= 1
    assert fake.ledger.runs == []


async def test_queued_runs_start_late_and_are_found(tmp_path: Path) -> None:
    """More rows in flight than Celery has slots: streams end in silence, the runs come later, none is paid twice."""
    fake = FakeDify(hold_ms=0, celery_slots=1, queue_idle_s=0.1, latency_ms=80)
    ran = await run_batch(tmp_path, queries(12), fake, concurrency=6, lost_window=150.0)
    assert ran.states == {OK: 12}
    assert ran.paid_twice == []
    assert "lost" in ran.facts
