"""Tokens: their life, and what the manager remembers. The whole way: tests/brokers/test_identities.py."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.manager.enginerig import Rig
from tests.manager.realm import Realm
from tests.support.waiting import until

from fleetfoot_manager import enrolling
from fleetfoot_manager.enrolling import Door
from fleetfoot_manager.errands import Errand
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_protocol import enrolment, keys
from fleetfoot_protocol.enrolment import Admission, Token
from fleetfoot_protocol.errors import FleetfootError


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(Realm(tmp_path))
    yield rig
    rig.close()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(Pki.create(tmp_path / "pki", "testfleet", ["127.0.0.1"]), "mqtts://broker.example.org")


def do(rig: Rig, act: Any) -> Any:
    errand: Errand[Any] = Errand(act)
    rig.engine.put(errand)
    return errand.answer.result(20)


def token(rig: Rig, life: float = 3600.0, device: str | None = None) -> Token:
    secret = secrets.token_hex(32)
    digest = enrolment.secret_digest(secret)
    root = do(rig, lambda w: enrolling.keep_token(w, digest, "ovens", device, w.now + life, "alice"))
    return Token(url="https://127.0.0.1:1", secret=secret, group="ovens", device=device, root=root)


def admit(rig: Rig, door: Door, using: Token, name: str = "oven-1") -> Admission:
    asked = enrolment.apply(using, name, keys.generate(), keys.generate(), {})
    admission: Admission = do(rig, lambda work: enrolling.admit(work, door, asked))
    return admission


@row(75, "enrolment token after its life", "refused, no certificate")
def test_row_75_an_expired_token_enrols_nobody(rig: Rig, door: Door) -> None:
    using = token(rig, 60)
    rig.shift = 61
    with pytest.raises(FleetfootError, match="expired"):
        admit(rig, door, using)
    assert door.pki.issued("device") == {}
    rig.shift = 0
    assert admit(rig, door, using).device == "oven-1"


def test_nobody_is_enrolled_by_a_token_that_was_never_made(rig: Rig, door: Door) -> None:
    using = token(rig).model_copy(update={"secret": "0" * 64})
    with pytest.raises(FleetfootError, match="nobody knows"):
        admit(rig, door, using)


def test_a_token_that_is_refused_is_not_used_up(rig: Rig, door: Door) -> None:
    first, second = token(rig), token(rig)
    admit(rig, door, first, "taken")
    with pytest.raises(FleetfootError, match="another key"):
        admit(rig, door, second, "taken")
    assert admit(rig, door, second, "free").group == "ovens"


def test_another_key_for_a_known_device_takes_the_old_certificates_away(rig: Rig, door: Door) -> None:
    admit(rig, door, token(rig))
    (first,) = door.pki.issued("device")["oven-1"]
    again = token(rig, device="oven-1")
    admit(rig, door, again)
    assert door.pki.revoked("device") == {first}
    assert len(door.pki.issued("device")["oven-1"]) == 2


def test_the_group_learns_of_its_first_device(rig: Rig, door: Door) -> None:
    admit(rig, door, token(rig))
    rig.connect()
    until(lambda: rig.broker.on("ff/v1/groups/ovens/heartbeat"), "a heartbeat for the new group")


def test_a_token_survives_neither_a_typing_error_nor_a_cut() -> None:
    text = enrolment.encode(Token(url="https://h", secret="a" * 64, group="g", root="b" * 64))
    assert enrolment.decode(f"  {text}\n").group == "g"
    for wrong in ("", text[:-3], text[5:], "ffe1.", text + "=" * 5000, "ffe1.ä"):
        with pytest.raises(FleetfootError, match="no enrolment token"):
            enrolment.decode(wrong)
