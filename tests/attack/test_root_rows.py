"""The trust root under attack, and rotated under a running device (rows 13-16)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attack.rows import row
from tests.attack.target import GROUP, HEARTBEATS, Target, target
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_agent.worker import memory
from fleetfoot_protocol import keys, topics
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Heartbeat
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import RoleKeys, Roles, TrustRoot
from fleetfoot_sim.devices import Device, ProcessDevice

REFUSED = Code.UPGRADE_ROOT_REFUSED


@pytest.fixture
def aim(tmp_path: Path) -> Iterator[Target]:
    with target(tmp_path) as made:
        yield made


def publish_root(aim: Target, step: int, data: bytes) -> None:
    aim.director.publish(topics.build(Kind.TRUST_ROOT, step=str(step)), data)


def await_root(aim: Target, version: int, *, seconds: float = 30) -> None:
    until(lambda: (s := aim.status()) is not None and s.root == version, f"root {version}", seconds=seconds)


def stolen(aim: Target, version: int = 2) -> TrustRoot:
    """A root that hands every role to a thief."""
    thief = keys.public_of(aim.house.keys["stranger"])
    name = keys.key_id(thief)
    all_of_it = RoleKeys(keys=(name,), threshold=1)
    roles = Roles(root=all_of_it, release=all_of_it, director=all_of_it)
    changes = {"version": version, "epoch": 2, "keys": {name: thief.hex()}, "roles": roles}
    return aim.house.root.model_copy(update=changes)


def thiefs_order(aim: Target) -> bytes:
    """What the thief would order under the stolen root."""
    bundle = aim.release(signers=())
    envelope = aim.house.sign(PayloadType.RELEASE, bundle.release.payload(), "stranger")
    aim.serve(Bundle(bundle.path, bundle.release, bundle.digest, envelope))
    return aim.signed(aim.document(bundle, epoch=2), "stranger")


@row(13, "root N+2 without N+1; N+1 signed by the new keys only, or by other roles' keys",
     "refused with an alarm, each; the genuine N+1 is taken",
     holds=[("broker", "unsigned"), ("manager", "unsigned"), ("release key", "unsigned")])  # fmt: skip
def test_row_13_a_root_that_is_not_properly_chained_is_refused(aim: Target) -> None:
    before = aim.untouched()
    second = aim.house.root.model_copy(update={"version": 2})
    third = aim.house.root.model_copy(update={"version": 3})
    publish_root(aim, 3, aim.house.sign_root(third))  # nobody asks for it before there is a second
    publish_root(aim, 2, aim.house.sign_root(third))
    until(lambda: aim.told(REFUSED) == 2, "the skipping root is refused")  # an event and the alarm
    until(lambda: (s := aim.status()) is not None and REFUSED in s.alarms, "the alarm stands")
    rejected = len(aim.events("upgrade_rejected"))
    for count, names in enumerate((("stranger",), ("release", "release-b"), ("director",)), 1):
        root = stolen(aim) if names == ("stranger",) else second
        publish_root(aim, 2, aim.house.sign_root(root, *names))
        wanted = rejected + count
        until(lambda: len(aim.events("upgrade_rejected")) == wanted, f"the root signed by {names} is refused")  # noqa: B023
    assert aim.untouched() == before
    aim.refuse_order(thiefs_order(aim), Code.UPGRADE_SIGNATURE_INVALID)
    publish_root(aim, 2, aim.house.sign_root(second))
    await_root(aim, 3)  # the third lies there already, and now it follows
    until(lambda: (s := aim.status()) is not None and REFUSED not in s.alarms, "the alarm is over")
    aim.obey()


@row(14, "a refused root, then the agent killed and started again",
     "still refused, nothing of the thief's runs",
     holds=[("broker", "unsigned"), ("courier", "unsigned")])  # fmt: skip
def test_row_14_a_root_once_refused_stays_refused_after_a_kill(aim: Target) -> None:
    aim.device.disconnect()
    config = aim.config
    real = ProcessDevice(Device(config, aim.device.device.public))
    real.connect()
    try:
        bad = aim.house.sign_root(stolen(aim), "stranger")
        publish_root(aim, 2, bad)
        until(lambda: aim.told(REFUSED) >= 2, "the root is refused")
        until(lambda: REFUSED in (config.worker_dir / "state.json").read_text(), "and it is on the disk")
        os.kill(real.pid("run"), signal.SIGKILL)
        real.disconnect()
        for file in (config.spool / "in" / "msg").rglob("*"):
            if file.is_file():
                file.unlink()  # so that it comes anew
        told = aim.told(REFUSED)
        real.connect()
        until(lambda: len(aim.events("upgrade_rejected")) > 1 and aim.told(REFUSED) > told, "refused again")
        again = [e["data"]["message"] for e in aim.events("upgrade_rejected")]
        assert again[-1] == "it was refused before"
        aim.refuse_order(thiefs_order(aim), Code.UPGRADE_SIGNATURE_INVALID)
        aim.obey()
        # Nobody else's mistake is made permanent: the genuine next root is taken.
        publish_root(aim, 2, aim.house.sign_root(aim.house.root.model_copy(update={"version": 2})))
        await_root(aim, 2)
    finally:
        real.power_off()


@row(15, "a chain of 300 genuine roots at once", "256 steps, then an alarm; the rest an hour later")
def test_row_15_a_chain_is_followed_256_steps_at_once(aim: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(2, 301):
        root = aim.house.root.model_copy(update={"version": version})
        aim.director.client.publish(
            topics.build(Kind.TRUST_ROOT, step=str(version)), aim.house.sign_root(root), qos=1, retain=True
        )
    await_root(aim, 257, seconds=60)
    until(lambda: (s := aim.status()) is not None and REFUSED in s.alarms, "the alarm")
    aim.settle()
    status = aim.status()
    assert status is not None
    assert status.root == 257
    aim.obey()
    monkeypatch.setattr(memory, "GO_SECONDS", 0)  # as if the hour were over
    aim.settle()
    await_root(aim, 300, seconds=60)
    until(lambda: (s := aim.status()) is not None and REFUSED not in s.alarms, "the alarm is over")
    aim.obey()


@row(16, "a release signed with a key that a newer root has removed",
     "refused; one signed by its successor is installed",
     holds=[("release key", "unsigned"), ("release key", "harm")])  # fmt: skip
def test_row_16_a_revoked_release_key_signs_nothing_any_more(aim: Target) -> None:
    before = aim.release()  # signed in time, and never installed
    stranger = aim.house.public("stranger")
    publish_root(aim, 2, aim.house.rotate(1, "--replace", aim.house.public("release-b"), stranger))
    await_root(aim, 2)
    for bundle in (before, aim.release()):
        aim.serve(bundle)
        told = aim.told(Code.UPGRADE_THRESHOLD_NOT_MET)
        untouched = aim.untouched()
        aim.send(aim.signed(aim.document(bundle)))
        until(lambda: aim.told(Code.UPGRADE_THRESHOLD_NOT_MET) == told + 1, "the release is refused")  # noqa: B023
        after = aim.untouched()
        assert (after.current, after.pid, after.blobs) == (untouched.current, untouched.pid, untouched.blobs)
    aim.obey(aim.serve(aim.release(signers=("release", "stranger"))))


def test_a_device_sleeps_through_rotations_of_every_role_and_wakes_up_in_the_present(aim: Target) -> None:
    """Release, operator, director and root keys, made by the real tool; the epoch resets the sequences."""
    house = aim.house
    high = aim.settle()  # a sequence under the first director
    aim.device.disconnect()
    made = [house.rotate(1, "--replace", house.public("release-b"), house.public("stranger"))]
    made.append(
        house.rotate(2, "--replace", house.public("root"), house.public("root-2"), signers=("root", "root-2"))
    )
    replace = ("--replace", house.public("director"), house.public("director-2"))
    made.append(house.rotate(3, *replace, signers=("root-2",)))
    made.append(house.rotate(4, "--remove-operator", "alice", signers=("root-2",)))
    for step, data in enumerate(made, 2):
        publish_root(aim, step, data)
    bundle = aim.serve(aim.release(signers=("release", "stranger")))
    order = aim.document(bundle, epoch=2, sequence=5)
    assert order.sequence < high.sequence
    aim.send(aim.signed(order, "director-2"))
    aim.device.connect()
    until(lambda: aim.runs(bundle), "the device carries out what the new director ordered")
    await_root(aim, 5)
    # The old director's signature is worth nothing any more, whatever the epoch that it writes.
    for epoch in (1, 2, 3):
        old = aim.signed(aim.document(epoch=epoch), "director")
        told = aim.told(Code.UPGRADE_SIGNATURE_INVALID)
        aim.send(old)
        until(lambda: aim.told(Code.UPGRADE_SIGNATURE_INVALID) == told + 1, f"epoch {epoch} is refused")  # noqa: B023
    assert aim.answered(order) == ""


def test_the_documents_of_a_removed_director_vanish(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    held = aim.document(bundle, hold=True)
    aim.send(aim.signed(held))
    until(lambda: aim.answered(held) == Code.UPGRADE_ON_HOLD, "the order of the old director stands")
    replace = ("--replace", aim.house.public("director"), aim.house.public("director-2"))
    publish_root(aim, 2, aim.house.rotate(1, *replace))
    await_root(aim, 2)
    until(lambda: aim.component().answered is None, "no order stands any more")
    assert aim.component().state is Lifecycle.IDLE
    first = aim.document(bundle, epoch=2, sequence=1)
    aim.send(aim.signed(first, "director-2"))
    until(lambda: aim.runs(bundle), "the new director is obeyed from its first sequence on")


@row(12, "a stolen director signs a heartbeat of the year 2100, so that every order has expired",
     "nothing is lost but time: the next director is obeyed", holds=[("manager", "harm")])  # fmt: skip
def test_row_12_a_poisoned_time_ends_with_its_director(aim: Target) -> None:
    beat = Heartbeat(
        fleet=aim.house.root.fleet,
        group=GROUP,
        issued="2100-01-01T00:00:00Z",
        expires="2100-01-02T00:00:00Z",
        components={},
    )
    aim.send(aim.house.sign(PayloadType.HEARTBEAT, beat.payload(), "director"), HEARTBEATS)
    until(lambda: any((aim.config.spool / "in" / "msg" / "heartbeat").glob("*")), "the heartbeat arrives")
    bundle = aim.serve(aim.release())
    aim.answer(aim.document(bundle), Code.UPGRADE_EXPIRED)
    replace = ("--replace", aim.house.public("director"), aim.house.public("director-2"))
    publish_root(aim, 2, aim.house.rotate(1, *replace))
    await_root(aim, 2)
    aim.send(aim.signed(aim.document(bundle, epoch=2), "director-2"))
    until(lambda: aim.runs(bundle), "the next director is obeyed")
