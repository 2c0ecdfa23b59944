"""API keys at rest: AES-256-GCM, bound to the app and the origin that they were given for.

A sealed key that is moved to another app, or whose server is changed in the database, cannot be opened: nobody who can
write to the file can have a key sent to a server of theirs.

    version (1 byte) | key id (4) | nonce (12) | ciphertext and tag
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rowmill.domain.errors import StoreError, os_detail
from rowmill.store.faults import as_store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_NAME = "secret.key"
KEY_VARIABLE = "ROWMILL_SECRET_KEY"
KEY_FILE_VARIABLE = "ROWMILL_SECRET_KEY_FILE"

_VERSION = b"\x01"
_KEY_SIZE = 32
_ID_SIZE = 4
_NONCE_SIZE = 12
_HEAD_SIZE = len(_VERSION) + _ID_SIZE


class Seal:
    """Seals and opens with one key of 32 bytes. Raises store errors secret_key_bad and secret_unreadable."""

    def __init__(self, key: bytes) -> None:
        _refuse_weak(key, "the key")
        self._cipher = AESGCM(key)
        self._head = _VERSION + hashlib.sha256(b"rowmill key id" + key).digest()[:_ID_SIZE]

    def __repr__(self) -> str:
        return f"Seal(key id {self._head[1:].hex()})"

    def seal(self, secret: str, *, app_id: str, origin: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return self._head + nonce + self._cipher.encrypt(nonce, secret.encode(), self._bound_to(app_id, origin))

    def open(self, sealed: bytes, *, app_id: str, origin: str) -> str:
        """secret_unreadable(app, why): `why` is `other_key` if it was sealed with another key, else `changed`."""
        head, nonce, rest = sealed[:_HEAD_SIZE], sealed[_HEAD_SIZE : _HEAD_SIZE + _NONCE_SIZE], sealed[_HEAD_SIZE:]
        if head != self._head:
            raise StoreError("secret_unreadable", app=app_id, why="other_key")
        try:
            return self._cipher.decrypt(nonce, rest[_NONCE_SIZE:], self._bound_to(app_id, origin)).decode()
        except (InvalidTag, ValueError):
            raise StoreError("secret_unreadable", app=app_id, why="changed") from None

    def _bound_to(self, app_id: str, origin: str) -> bytes:
        return self._head + json.dumps([app_id, origin]).encode()


def load_key(data_dir: Path, env: Mapping[str, str]) -> bytes:
    """The key from the environment, from the file named there, or from the data folder, where one is made if there is
    none. Raises secret_key_bad(source)."""
    with as_store_errors(str(data_dir)):
        if KEY_VARIABLE in env:
            return _read_key(env[KEY_VARIABLE], KEY_VARIABLE)
        if KEY_FILE_VARIABLE in env:
            return _read_key_file(Path(env[KEY_FILE_VARIABLE]))
        return _own_key(data_dir / KEY_NAME)


def _read_key_file(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError("secret_key_bad", source=str(path), detail=os_detail(error)) from error
    try:
        return _read_key(text.decode("ascii"), str(path))
    except UnicodeDecodeError:
        raise StoreError("secret_key_bad", source=str(path)) from None


def _read_key(text: str, source: str) -> bytes:
    """64 hex digits or base64 (either alphabet) of 32 bytes."""
    text = "".join(text.split())
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _KEY_SIZE else _from_base64(text)
    except ValueError:
        raise StoreError("secret_key_bad", source=source) from None
    _refuse_weak(key, source)
    return key


def _from_base64(text: str) -> bytes:
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _refuse_weak(key: bytes, source: str) -> None:
    if len(key) != _KEY_SIZE or len(set(key)) == 1:
        raise StoreError("secret_key_bad", source=source)


def _own_key(path: Path) -> bytes:
    """Made whole under another name first: whoever comes at the same moment sees no key or all of it."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            _write_durably(fresh, base64.b64encode(secrets.token_bytes(_KEY_SIZE)) + b"\n")
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
        _sync_folder(path.parent)
    return _read_key_file(path)


def _write_durably(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
