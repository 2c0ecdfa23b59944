"""Keys at rest."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.ports.building import APP

from rowmill.domain.errors import StoreError
from rowmill.store.seal import KEY_FILE_VARIABLE, KEY_VARIABLE, Seal, load_key
from rowmill.store.sql import open_store

KEY = bytes(range(32))
SECRET = "app-Z9canaryCANARY0123456789"  # a made-up one


def test_a_sealed_secret_opens_for_its_own_app_and_origin_only():
    seal = Seal(KEY)
    sealed = seal.seal(SECRET, app_id="a", origin="https://x")
    assert seal.open(sealed, app_id="a", origin="https://x") == SECRET
    assert sealed != seal.seal(SECRET, app_id="a", origin="https://x")
    assert SECRET.encode() not in sealed
    for app_id, origin in (("b", "https://x"), ("a", "https://evil"), ("a", "http://x"), ('a"', "https://x")):
        with pytest.raises(StoreError) as raised:
            seal.open(sealed, app_id=app_id, origin=origin)
        assert (raised.value.code, raised.value.params) == ("secret_unreadable", {"app": app_id, "why": "changed"})


def test_every_flipped_byte_and_every_cut_is_noticed():
    seal = Seal(KEY)
    sealed = seal.seal(SECRET, app_id="a", origin="o")
    for place in range(len(sealed)):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        for broken in (changed, sealed[:place]):
            with pytest.raises(StoreError, match="secret_unreadable"):
                seal.open(broken, app_id="a", origin="o")


def test_another_key_is_named_as_the_reason():
    sealed = Seal(KEY).seal(SECRET, app_id="a", origin="o")
    with pytest.raises(StoreError) as raised:
        Seal(KEY[::-1]).open(sealed, app_id="a", origin="o")
    assert raised.value.params["why"] == "other_key"


def test_neither_secret_nor_key_stands_in_the_files_of_the_store(tmp_path):
    store = open_store(tmp_path)
    sealed = Seal(KEY).seal(SECRET, app_id=APP.id, origin="o")
    store.save_app(replace(APP, sealed_key=sealed))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "rowmill.db-wal" in files
    assert any(sealed in content for content in files.values())
    for content in files.values():
        assert SECRET.encode() not in content
        assert KEY not in content
    store.close()
    assert SECRET.encode() not in (tmp_path / "rowmill.db").read_bytes()
    assert "000102" not in repr(Seal(KEY))


@pytest.mark.parametrize(
    "text",
    [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode().rstrip("=")],
)
def test_a_key_is_read_from_the_environment_or_a_file(tmp_path, text):
    assert load_key(tmp_path, {KEY_VARIABLE: f" {text}\n"}) == KEY
    (tmp_path / "key").write_text(text + "\n")
    assert load_key(tmp_path, {KEY_FILE_VARIABLE: str(tmp_path / "key")}) == KEY
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.parametrize(
    "text",
    ["", "password", KEY[:31].hex(), base64.b64encode(KEY[:31]).decode(), "00" * 32, "g" * 64, KEY.hex() * 2, "é"],
)
def test_weak_and_broken_keys_are_refused_without_being_shown(tmp_path, text):
    (tmp_path / "key").write_text(text)
    for env in ({KEY_VARIABLE: text}, {KEY_FILE_VARIABLE: str(tmp_path / "key")}):
        with pytest.raises(StoreError) as raised:
            load_key(tmp_path, env)
        assert raised.value.code == "secret_key_bad"
        assert not text or text not in str(raised.value)
    with pytest.raises(StoreError, match="secret_key_bad"):
        load_key(tmp_path, {KEY_FILE_VARIABLE: str(tmp_path / "none")})
    for key in (b"short", b"\x07" * 32):
        with pytest.raises(StoreError, match="secret_key_bad"):
            Seal(key)


def test_an_own_key_is_made_once_for_all_who_come(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_key(tmp_path, {}), range(32)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    (tmp_path / "secret.key").write_text("")
    with pytest.raises(StoreError, match="secret_key_bad"):
        load_key(tmp_path, {})
