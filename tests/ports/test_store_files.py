"""What every store promises about files."""

from __future__ import annotations

import pytest
from tests.ports.building import APP, B, batch, fill, finish, intend, key, new_row, refuse

from rowmill.domain.batch import RowMove
from rowmill.domain.errors import IllegalMoveError, StoreError
from rowmill.ports.store import OutputFile, UploadRecord

ONE, TWO, THREE = "a" * 64, "b" * 64, "c" * 64


def upload(user="u0", sha256=ONE, name="a.pdf", file_id="f-1", app_id=APP.id):
    return UploadRecord(app_id, user, sha256, name, file_id, 5.0)


def find(store, known):
    return store.find_upload(known.app_id, known.user, known.sha256, known.name)


def test_an_upload_is_known_by_app_user_file_and_name(store):
    store.save_app(APP)
    known = upload()
    assert find(store, known) is None
    store.save_upload(known)
    assert find(store, known) == known
    for other in (upload(user="u1"), upload(sha256=TWO), upload(name="b.pdf"), upload(app_id="other")):
        assert find(store, other) is None


def test_a_newer_upload_takes_the_place_of_the_older(store):
    store.save_app(APP)
    store.save_upload(upload())
    store.save_upload(upload(file_id="f-2"))
    assert find(store, upload()).file_id == "f-2"


def test_uploads_are_forgotten_for_all_users_but_only_of_that_file(store):
    store.save_app(APP)
    gone, kept = [upload(), upload("u1")], [upload(sha256=TWO), upload(name="b.pdf")]
    for one in gone + kept:
        store.save_upload(one)
    store.forget_uploads(APP.id, ONE, "a.pdf")
    assert [find(store, one) for one in gone + kept] == [None, None, *kept]


def test_an_upload_to_an_unknown_app_is_refused(store):
    with pytest.raises(StoreError):
        store.save_upload(upload(app_id="nobody"))


def test_odd_names_come_back_as_they_were(store):
    store.save_app(APP)
    odd = upload(name="表\ud800\0.pdf", user="\x01json:", file_id="é")
    store.save_upload(odd)
    assert find(store, odd) == odd


def test_files_are_needed_as_long_as_their_batch_is_there(store):
    store.save_app(APP)
    for name in ("draft", "other"):
        store.add_batch(batch(name))
        store.add_rows(name, [new_row(0)])
    store.add_files("draft", [ONE, TWO])
    store.add_files("draft", {TWO})
    store.add_files("other", [TWO, THREE])
    assert store.needed_files() == {ONE, TWO, THREE}
    store.drop_batch("draft")
    assert store.needed_files() == {TWO, THREE}
    store.sweep_drafts(1e9)
    assert store.needed_files() == set()


def test_files_are_added_to_drafts_only(store):
    fill(store, 1)
    with pytest.raises(IllegalMoveError):
        store.add_files(B, [ONE])
    with pytest.raises(StoreError):
        store.add_files("nobody", [ONE])


def results(store):
    return [row.files for row in store.results(B)]


MISSING = OutputFile("/a", "a.pdf", error="http_500")
KEPT = OutputFile("/a", "a.pdf", ONE, 5)


def test_what_became_of_an_output_file(store):
    fence = fill(store, 2)
    store.write([intend(0), intend(1), finish(0), finish(1)], fence)
    store.save_output_file(key(0), MISSING)
    assert store.output_files(key(0)) == [MISSING]
    assert store.count_output_files(B) == (0, 1)
    store.save_output_file(key(0), KEPT)
    store.save_output_file(key(0), MISSING)
    assert store.output_files(key(0)) == [KEPT], "a file that is kept stays kept"
    second = OutputFile("/b/0", "b.pdf", TWO, 7)
    store.save_output_file(key(0), second)
    assert store.output_files(key(0)) == [KEPT, second]
    assert results(store) == [(KEPT, second), ()]
    assert store.count_output_files(B) == (2, 0)
    assert store.needed_files() == {ONE, TWO}


def test_an_output_file_of_a_row_that_is_not_there_is_nothing(store):
    fill(store, 1)
    for absent in (key(9), key(0, batch_id="nobody")):
        store.save_output_file(absent, KEPT)
        assert store.output_files(absent) == []


def test_results_show_the_files_of_the_last_attempt(store):
    fence = fill(store, 1)
    store.write([intend(0), finish(0, move=RowMove.WAIT, due_at=1.0)], fence)
    store.save_output_file(key(0), KEPT)
    assert results(store) == [(KEPT,)]
    store.write([intend(0, 2), finish(0, 2)], fence)
    assert results(store) == [()]
    assert store.count_output_files(B) == (0, 0)


FILE = '{"f":{"dify_model_identity":"__dify__file__"}}'


def test_fresh_outputs(store):
    fence = fill(store, 5)
    store.write([intend(position) for position in range(5)], fence)
    store.write([finish(0, outputs=FILE), finish(1), finish(3, outputs="x__dify_xfile__"), refuse(4)], fence)
    assert store.fresh_outputs(B, 20.0) == [(key(0), FILE)]
    assert store.fresh_outputs(B, 20.5) == [], "it ended before"
    store.write([finish(2, outputs=FILE, move=RowMove.WAIT, due_at=1.0), intend(2, 2)], fence)
    assert store.fresh_outputs(B, 0.0) == [(key(0), FILE)], "a row that runs again has no outputs"
    assert store.fresh_outputs("nobody", 0.0) == []
