"""Versions of an app, as runs tell them."""

from __future__ import annotations

from rowmill.domain.versions import Sightings, is_version, short


def test_a_new_version_is_news_once() -> None:
    seen = Sightings()
    told = [seen.note(workflow_id) for workflow_id in ("a", None, "a", "b", "a", "b", "c", "c")]
    assert told == [None, None, None, "a", None, None, "b", None]
    assert (seen.last, seen.known) == ("c", {"a", "b", "c"})


def test_versions_are_uuids() -> None:
    one = "3f1b6a52-7d7c-4c5f-9a55-0f3d7a1b2c3d"
    assert is_version(one)
    assert not any(map(is_version, ("", "first", "rows.xlsx", one[:-1])))
    assert short(one) == "3f1b6a52"
