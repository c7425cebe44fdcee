"""Keys locked by a passphrase: they sign for whoever knows it, and for nobody else."""

import json
from pathlib import Path

import pytest
from nacl.pwhash import argon2id
from tests.client.rig import Fleet, Run

from fleetfoot_client import keyfiles, lockbox
from fleetfoot_protocol.errors import FleetfootError

PHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that libsodium takes: these locks protect nothing."""
    monkeypatch.setattr(lockbox, "OPS", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(lockbox, "MEMORY", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def phrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "phrase"
    path.write_text(PHRASE + "\n")
    monkeypatch.setenv(lockbox.FILE_VARIABLE, str(path))
    return path


@pytest.fixture
def locked(tmp_path: Path, run: Run, phrase: Path) -> Path:
    path = tmp_path / "release.key"
    done = run("key", "new", path, "--passphrase", "--json")
    assert (done.code, done.json["locked"]) == (0, True), done.err
    return path


def test_a_locked_key_signs_with_its_passphrase_and_its_file_does_not_tell_the_secret(locked: Path) -> None:
    key = keyfiles.load_signing(locked)
    assert key.secret.hex() not in locked.read_text()
    assert "secret" not in json.loads(locked.read_text())
    assert keyfiles.load_public(f"{locked}.pub") == keyfiles.load(locked).public


def test_another_passphrase_is_refused(locked: Path, phrase: Path, run: Run) -> None:
    phrase.write_text("incorrect horse battery staple")
    done = run("release", "sign", locked.parent, "--key", locked)
    assert done.code == 1
    with pytest.raises(FleetfootError, match="the passphrase is another one") as caught:
        keyfiles.load_signing(locked)
    assert caught.value.code == "key_unreadable"


def test_without_anybody_to_ask_it_says_what_to_do(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lockbox.FILE_VARIABLE)
    with pytest.raises(FleetfootError, match="no terminal to ask at") as caught:
        keyfiles.load_signing(locked)
    assert lockbox.FILE_VARIABLE in caught.value.remedy


def test_a_short_passphrase_locks_nothing(tmp_path: Path, phrase: Path, run: Run) -> None:
    phrase.write_text("short")
    done = run("key", "new", tmp_path / "a.key", "--passphrase")
    assert done.code == 1
    assert not (tmp_path / "a.key").exists()


def test_a_locked_key_that_others_can_read_is_refused_all_the_same(locked: Path) -> None:
    locked.chmod(0o644)
    with pytest.raises(FleetfootError) as caught:
        keyfiles.load(locked)
    assert caught.value.code == "key_unsafe"


@pytest.mark.parametrize(
    "change",
    [
        {"ops": 10**9},
        {"memory": 2**50},
        {"ops": "3"},
        {"ops": True},
        {"memory": -1},
        {"salt": "00"},
        {"salt": "zz"},
        {"box": ""},
        {"box": "00" * 72},
        {"public": "11" * 32},
    ],
    ids=str,
)
def test_a_damaged_lock_is_refused_without_a_traceback_and_at_once(
    locked: Path, change: dict[str, object]
) -> None:
    locked.write_text(json.dumps({**json.loads(locked.read_text()), **change}))
    with pytest.raises(FleetfootError) as caught:
        keyfiles.load(locked)
    assert caught.value.code == "key_unreadable"


def test_show_asks_for_no_passphrase(locked: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lockbox.FILE_VARIABLE)
    done = run("key", "show", locked)
    assert (done.code, "locked by a passphrase" in done.out) == (0, True)


def test_a_locked_key_is_not_taken_for_a_public_one(locked: Path) -> None:
    with pytest.raises(FleetfootError, match="a public key is wanted"):
        keyfiles.load_public(str(locked))


def test_a_locked_root_key_makes_a_root(fleet: Fleet, locked: Path, run: Run, tmp_path: Path) -> None:
    done = run(
        "trust", "init", "--fleet", "f", "--root-key", locked, "--release-key", fleet.public("a"),
        "--director", fleet.public("director"), "--operator", f"alice={fleet.public('alice')}",
        "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert run("trust", "verify", tmp_path / "r.json").code == 0
