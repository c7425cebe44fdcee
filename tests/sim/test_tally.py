"""What the demo's witness counts: attested statuses, and nothing that was not signed."""

from pathlib import Path

import pytest
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs

from fleetfoot_protocol import keys
from fleetfoot_protocol.reports import Answer, ComponentStatus
from fleetfoot_protocol.states import Lifecycle, Verdict
from fleetfoot_protocol.topics import Kind, Topic
from fleetfoot_sim.tally import Member, Tally

ROLLOUT = "r-1"
ANSWER = Answer(epoch=1, sequence=7, scope="group", verdict=Verdict.ACCEPTED, reason="ordered")


class Fleet:
    """A witness and the devices that it counts."""

    def __init__(self, realm: Realm) -> None:
        self.old, self.bad = realm.release("1.1.0", 1), realm.release("1.2.0", 2)
        self.devices = [Device(f"dev-{number}", "hall") for number in range(3)]
        members = [Member(d.id, d.group, keys.public_of(d.secret).hex()) for d in self.devices]
        self.tally = Tally(realm.root, members, COMPONENT)

    def say(self, device: Device, component: ComponentStatus, *, forged: bool = False) -> None:
        status, attestation = device.status(component)
        if forged:
            status = status.replace(b'"hall"', b'"yard"')
        for kind, payload in ((Kind.STATUS, status), (Kind.STATUS_ATTESTATION, attestation)):
            self.tally.take(Topic(kind, group=device.group, device=device.id), payload)

    def at_work(self, device: Device, state: Lifecycle, release: Bundle) -> None:
        work = {"rollout": ROLLOUT, "attempt": 1, "target": release.digest, "answered": ANSWER}
        self.say(device, runs(self.old, state=state, **work))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(Realm(tmp_path))


def test_a_canary_that_drops_what_it_fetched_has_not_begun(fleet: Fleet) -> None:
    """As when another one trips the rollout meanwhile."""
    slow = fleet.devices[0]
    for state in (Lifecycle.WAITING, Lifecycle.DOWNLOADING, Lifecycle.VERIFYING, Lifecycle.STAGED):
        fleet.at_work(slow, state, fleet.bad)
    fleet.say(slow, runs(fleet.old))
    assert fleet.tally.began(ROLLOUT) == set()
    assert fleet.tally.versions() == {"1.1.0": 1}


@pytest.mark.parametrize("state", [Lifecycle.ACTIVATING, Lifecycle.PROBATION, Lifecycle.ROLLING_BACK])
def test_a_device_has_begun_from_activation_on(fleet: Fleet, state: Lifecycle) -> None:
    fleet.at_work(fleet.devices[0], state, fleet.bad)
    assert fleet.tally.began(ROLLOUT) == {"dev-0"}


def test_a_device_whose_end_alone_was_seen_has_begun_too(fleet: Fleet) -> None:
    back = ended(fleet.bad, ROLLOUT, "rolled_back", fleet.old, code="upgrade_boot_failed", answered=ANSWER)
    fleet.say(fleet.devices[1], back)
    assert fleet.tally.began(ROLLOUT) == {"dev-1"}


def test_what_is_not_as_it_was_signed_counts_nowhere(fleet: Fleet) -> None:
    back = ended(fleet.bad, ROLLOUT, "rolled_back", fleet.old, answered=ANSWER)
    fleet.say(fleet.devices[2], back, forged=True)
    assert fleet.tally.began(ROLLOUT) == set()
    assert fleet.tally.versions() == {}
