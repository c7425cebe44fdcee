"""Under load: what is stored before it is verified counts for nothing, and nothing pushes a true one out."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from tests.manager.enginerig import Rig
from tests.manager.realm import Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_manager import engine, inventory, schema
from fleetfoot_protocol import dsse, keys, topics
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.topics import Kind


@pytest.fixture
def rig(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Two messages at once are load, and there is never time."""
    monkeypatch.setattr(engine, "LOADED", 2)
    monkeypatch.setattr(engine, "_JUDGED_AT_ONCE", 0)
    rig = Rig(realm)
    rig.connect()
    yield rig
    rig.close()


def claimed(rig: Rig) -> int:
    with rig.store.read() as tx:
        return tx.scalar(sa.select(sa.func.count()).select_from(schema.claims)) or 0


def known(rig: Rig) -> bool:
    """Whether anything verified is known of the device."""
    with rig.store.read() as tx:
        return inventory.demand(tx, "dev-1").status is not None


def forged(status: tuple[bytes, bytes], counter: int) -> tuple[bytes, bytes]:
    return status[0], dsse.attest(PayloadType.STATUS, status[0], counter, keys.generate())


def test_what_is_not_verified_is_stored_apart_until_somebody_asks(rig: Rig, device: Device) -> None:
    rig.say_at_once(device, device.status(agent="0.9.0"))
    until(lambda: claimed(rig) == 1, "the status is stored")
    assert not known(rig)
    assert rig.device("dev-1")["agent"] == "0.9.0"
    assert claimed(rig) == 0


@pytest.mark.parametrize("first", [0, 1])
def test_a_forged_status_pushes_no_true_one_out(rig: Rig, device: Device, first: int) -> None:
    true = device.status(agent="0.9.0")
    liar = Device("dev-1", "hall")
    both = [true, forged(liar.status(agent="6.6.6", counter=2**40), 2**40)]
    rig.say_at_once(device, both[first], both[1 - first])
    assert rig.device("dev-1")["agent"] == "0.9.0"
    assert rig.engine.ingest.ignored["upgrade_signature_invalid"] == 1


def test_a_forged_attestation_keeps_the_true_one_of_the_same_status_not_out(rig: Rig, device: Device) -> None:
    true = device.status(agent="0.9.0")
    rig.say_at_once(device, forged(true, 1))
    until(lambda: claimed(rig) == 1, "the forged pair is stored")
    rig.arrive(topics.build(Kind.STATUS_ATTESTATION, group="hall", device="dev-1"), true[1])
    assert rig.device("dev-1")["agent"] == "0.9.0"


def test_an_older_status_and_a_second_one_of_a_counter_are_found_out(rig: Rig, device: Device) -> None:
    old, new = device.status(agent="0.1.0"), device.status(agent="0.9.0")
    rig.say_at_once(device, new, old)
    assert rig.device("dev-1")["agent"] == "0.9.0"
    assert rig.engine.ingest.ignored["older status"] == 1


def test_a_gate_hears_of_its_devices_at_once(rig: Rig, realm: Realm, device: Device) -> None:
    old, new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)
    rig.publish(old)
    rig.publish(new)
    rig.say_at_once(device, device.status(runs(old)))
    name = rig.start(new, "hall")
    rig.say_at_once(device, device.status(ended(new, name, "completed", new)))
    until(lambda: not rig.engine.live, "the rollout is complete, though nobody asked and there is no time")
    assert claimed(rig) == 0


def test_what_waits_is_verified_after_a_restart(
    rig: Rig, realm: Realm, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.say_at_once(device, device.status())
    until(lambda: claimed(rig) == 1, "the status is stored")
    rig.close()
    monkeypatch.setattr(engine, "_JUDGED_AT_ONCE", 10)
    again = Rig(realm)
    try:
        until(lambda: known(again), "verified when there is time")
    finally:
        again.close()


def test_a_forgotten_device_leaves_nothing(rig: Rig, device: Device) -> None:
    rig.say_at_once(device, device.status())
    until(lambda: claimed(rig) == 1, "the status is stored")
    with rig.store.write() as tx:
        tx.execute(sa.delete(schema.devices).where(schema.devices.c.id == "dev-1"))
    assert claimed(rig) == 0
