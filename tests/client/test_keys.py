"""Key files: private or refused."""

import json
import os
import stat
from pathlib import Path

import pytest
from tests.client.rig import Run

from fleetfoot_client import keyfiles
from fleetfoot_protocol import keys
from fleetfoot_protocol.errors import FleetfootError


def test_a_new_key_is_private_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = keyfiles.create(tmp_path / "a.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a.key.pub").stat().st_mode) == 0o644
    assert keyfiles.load_signing(tmp_path / "a.key").secret == made.secret
    assert keyfiles.load_public(str(tmp_path / "a.key.pub")) == made.public


@pytest.mark.parametrize("present", ["a.key", "a.key.pub"])
def test_nothing_is_overwritten_and_nothing_half_made(tmp_path: Path, run: Run, present: str) -> None:
    (tmp_path / present).write_text("mine")
    done = run("key", "new", tmp_path / "a.key")
    assert done.code == 1
    assert "code: exists_already" in done.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(present, "mine")]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    keyfiles.create(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(FleetfootError) as caught:
        keyfiles.load(tmp_path / "a.key")
    assert caught.value.code == "key_unsafe"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_is_its_owners_alone_is_accepted(tmp_path: Path, mode: int) -> None:
    made = keyfiles.create(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    assert keyfiles.load(tmp_path / "a.key").public == made.public


@pytest.mark.needs("root")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    keyfiles.create(tmp_path / "a.key")
    os.chown(tmp_path / "a.key", 65534, 65534)
    with pytest.raises(FleetfootError, match="belongs to user 65534") as caught:
        keyfiles.load(tmp_path / "a.key")
    assert caught.value.code == "key_unsafe"


def rewritten(path: Path, change: dict[str, str]) -> Path:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **change}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"public": keys.public_of(b"x" * 32).hex()},
        {"secret": "00"},
        {"kind": "another"},
        {"public": "zz"},
    ],
)
def test_a_key_file_that_is_not_consistent_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    keyfiles.create(tmp_path / "a.key")
    with pytest.raises(FleetfootError) as caught:
        keyfiles.load(rewritten(tmp_path / "a.key", change))
    assert caught.value.code == "key_unreadable"


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"kind":"fleetfoot-key"}'])
def test_what_is_no_key_file_is_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FleetfootError) as caught:
        keyfiles.load(path)
    assert caught.value.code == "key_unreadable"


def test_a_fifo_in_a_keys_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.key")
    with pytest.raises(FleetfootError, match="it is no file"):
        keyfiles.load(tmp_path / "a.key")


def test_a_public_key_cannot_sign_and_a_secret_one_is_not_taken_for_public(tmp_path: Path) -> None:
    keyfiles.create(tmp_path / "a.key")
    with pytest.raises(FleetfootError, match="its secret key is needed"):
        keyfiles.load_signing(tmp_path / "a.key.pub")
    with pytest.raises(FleetfootError, match="a public key is wanted") as caught:
        keyfiles.load_public(str(tmp_path / "a.key"))
    assert caught.value.remedy.endswith("a.key.pub instead")


def test_show_tells_id_and_public_part_and_never_the_secret(tmp_path: Path, run: Run) -> None:
    made = keyfiles.create(tmp_path / "a.key")
    assert made.secret is not None
    for path in ("a.key", "a.key.pub"):
        plain, as_json = run("key", "show", tmp_path / path), run("key", "show", tmp_path / path, "--json")
        assert made.id in plain.out
        assert as_json.json["id"] == keys.key_id(made.public)
        assert as_json.json["public"] == made.public.hex()
        assert made.secret.hex() not in plain.out + as_json.out
