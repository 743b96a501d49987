"""What is sealed opens for who has the keys, as what it was and about whom it was, and for nobody else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.security.envelope import KEY_BYTES, Keyring, KeyringError, SealBroken, new_key, opened, seal


@given(st.binary(max_size=2000), st.text(max_size=40))
def test_what_is_sealed_comes_back(text: bytes, about: str) -> None:
    key = new_key()
    sealed = seal(key, text, about)
    assert opened(key, sealed, about) == text
    assert seal(key, text, about) != sealed, "never twice the same"


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_changed_bit_another_subject_or_another_key_does_not_open(text: bytes, data: st.DataObject) -> None:
    key = new_key()
    sealed = bytearray(seal(key, text, "ann"))
    with pytest.raises(SealBroken):
        opened(key, bytes(sealed), "bea")
    with pytest.raises(SealBroken):
        opened(new_key(), bytes(sealed), "ann")
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealBroken):
        opened(key, bytes(sealed), "ann")
    with pytest.raises(SealBroken):
        opened(key, b"", "ann")


def lines(*keys: bytes) -> str:
    return "".join(base64.b64encode(key).decode() + "\n" for key in keys)


def test_a_new_key_wraps_and_the_old_one_still_unwraps(tmp_path) -> None:
    file, old, new = tmp_path / "keys", new_key(), new_key()
    file.write_text(lines(old))
    before = Keyring.read(file)
    wrapped = before.wrap(b"k" * KEY_BYTES, "ann")
    file.write_text(lines(new, old))
    after = Keyring.read(file)
    assert after.current != before.current
    assert after.unwrap(before.current, wrapped, "ann") == b"k" * KEY_BYTES
    file.write_text(lines(new))
    with pytest.raises(KeyringError, match=before.current):
        Keyring.read(file).unwrap(before.current, wrapped, "ann")


@pytest.mark.parametrize("content", ["", "not base64!", lines(b"short"), "\u00e4"])
def test_a_file_that_holds_no_keys_is_named(tmp_path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(KeyringError, match=str(file)):
        Keyring.read(file)
    with pytest.raises(KeyringError, match="nowhere"):
        Keyring.read(tmp_path / "nowhere")
