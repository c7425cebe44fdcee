"""Groups: what runs in them, and who is not where the documents want them."""

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, ended, runs
from tests.support.waiting import until

from fleetfoot_protocol import topics
from fleetfoot_protocol.reports import Answer, PolicySummary
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.topics import Kind


@pytest.fixture
def devices(rig: Rig) -> dict[str, Device]:
    """A hall of four with the baseline 1.1.0: current, behind, ahead, and one never heard."""
    names = ("current", "behind", "ahead", "unheard")
    found = {name: Device(name, "hall") for name in names}
    rig.enroll(*found.values(), Device("lone", "yard"))
    bundles = releases(rig)
    for bundle in bundles.values():
        rig.publish(bundle)
    for name in names[:3]:
        rig.say(found[name], found[name].status(runs(bundles["1.1.0"])))
    rig.start(bundles["1.1.0"], "hall", waves=[4], breaker=0, device_timeout=1)
    rig.say(found["unheard"], found["unheard"].status(runs(bundles["1.1.0"])))
    rig.say(found["behind"], found["behind"].status(runs(bundles["1.0.0"])))
    rig.say(found["ahead"], found["ahead"].status(runs(bundles["1.2.0"])))
    return found


def releases(rig: Rig) -> dict[str, Bundle]:
    return {f"1.{n}.0": rig.realm.release(f"1.{n}.0", n + 1) for n in range(3)}


def test_a_group_tells_versions_states_and_its_baseline(rig: Rig, devices: dict[str, Device]) -> None:
    hall, yard = rig.do("group.list")["groups"]
    assert (hall["group"], hall["devices"], yard["group"], yard["components"]) == ("hall", 4, "yard", {})
    one = hall["components"][COMPONENT]
    assert one["versions"] == {"1.1.0": 2, "1.0.0": 1, "1.2.0": 1}
    assert one["states"] == {"idle": 4}
    assert one["baseline"] == "1.1.0"
    assert rig.do("group.show", {"group": "hall"}) == hall
    status = rig.do("manager.status")
    assert status["components"][COMPONENT]["versions"] == one["versions"]


def test_drift_is_who_is_not_where_the_documents_want_them(rig: Rig, devices: dict[str, Device]) -> None:
    rig.enroll(Device("new", "hall"))
    found = rig.do("group.drift", {"group": "hall"})
    assert {(r["device"], r["why"], r["runs"], r["wants"]) for r in found["drift"]} == {
        ("behind", "ordered", "1.0.0", "1.1.0"),
        ("ahead", "ahead", "1.2.0", "1.1.0"),
    }
    assert found["unheard"] == ["new"]


def test_drift_names_what_the_device_itself_forbids(rig: Rig, devices: dict[str, Device]) -> None:
    old = releases(rig)["1.0.0"]
    off = PolicySummary(enabled=False, channels=("stable",))
    rig.say(devices["behind"], devices["behind"].status(runs(old), policy=off))
    found = {r["device"]: r for r in rig.do("group.drift", {"group": "hall"})["drift"]}
    assert found["behind"]["code"] == "upgrade_disabled"


def test_drift_gives_the_devices_own_reason_for_the_document_that_stands(
    rig: Rig, devices: dict[str, Device]
) -> None:
    until(lambda: rig.desired("hall").baseline, "the rollout is over, and the document the last one")
    old, (epoch, sequence) = releases(rig)["1.0.0"], rig.desired("hall").order
    said = {
        "verdict": "deferred",
        "code": "upgrade_window_closed",
        "reason": "opens at 02:00",
        "scope": "group",
    }
    for answered, code in ((sequence, "upgrade_window_closed"), (sequence - 1, None)):
        answer = Answer.model_validate({"epoch": epoch, "sequence": answered, **said})
        rig.say(devices["behind"], devices["behind"].status(runs(old, answered=answer)))
        (row,) = (r for r in rig.do("group.drift", {"group": "hall"})["drift"] if r["device"] == "behind")
        assert row.get("code") == code


def test_who_is_pinned_does_not_drift(rig: Rig, devices: dict[str, Device]) -> None:
    rig.do("device.pin", {"device": "behind", "component": COMPONENT})
    found = rig.do("group.drift", {"group": "hall"})
    assert [r["device"] for r in found["drift"]] == ["ahead"]


def test_states_are_counted_by_the_words_that_are_shown(rig: Rig, devices: dict[str, Device]) -> None:
    device = devices["behind"]
    rig.say(device, device.status(runs(releases(rig)["1.0.0"], state=Lifecycle.DOWNLOADING)))
    states = rig.do("group.show", {"group": "hall"})["components"][COMPONENT]["states"]
    assert states == {"idle": 3, "upgrading": 1}


def test_who_went_back_is_not_counted_as_updated(rig: Rig, devices: dict[str, Device]) -> None:
    old, new = releases(rig)["1.0.0"], releases(rig)["1.1.0"]
    device = devices["behind"]

    def states() -> dict[str, int]:
        return dict(rig.do("group.show", {"group": "hall"})["components"][COMPONENT]["states"])

    up = ended(new, "r-1", "completed", new).model_copy(update={"previous": old.installed})
    rig.say(device, device.status(up))
    assert states() == {"idle": 3, "updated": 1}
    back = ended(old, "r-2", "completed", old)
    rig.say(device, device.status(back.model_copy(update={"outcomes": (*up.outcomes, *back.outcomes)})))
    assert states() == {"idle": 4}
    assert rig.device("behind")["components"][COMPONENT]["badge"] == "idle"


def test_a_group_without_devices_is_not_found_but_may_have_a_policy(rig: Rig) -> None:
    assert rig.ask("group.show", {"group": "attic"}).code == "not_found"
    assert rig.do("group.policy", {"group": "attic", "approval": "always"})["policy"]["approval"] == "always"
    assert rig.ask("group.policy", {"group": "attic", "approval": "sometimes"}).code == "request_invalid"


def test_a_groups_title_is_shown_where_the_group_is(rig: Rig) -> None:
    rig.do("group.create", {"group": "bakery", "title": "The bakery, first floor"})
    (row,) = rig.do("group.list")["groups"]
    assert (row["group"], row["title"], row["devices"]) == ("bakery", "The bakery, first floor", 0)


def test_a_group_stays_when_its_last_device_leaves_until_it_is_forgotten(
    rig: Rig, devices: dict[str, Device]
) -> None:
    desired = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
    refused = rig.ask("group.forget", {"group": "hall"})
    assert (refused.code, "has 4 devices" in refused.message) == ("conflict", True)
    for name in devices:
        rig.do("device.forget", {"device": name})
    rig.do("device.move", {"device": "lone", "group": "loft"})
    rows = {row["group"]: row for row in rig.do("group.list")["groups"]}
    assert {name: row["devices"] for name, row in rows.items()} == {"hall": 0, "loft": 1, "yard": 0}
    assert rig.broker.on(desired)[-1]
    assert rig.do("group.forget", {"group": "hall"})["cleared"] >= 2
    assert rig.ask("group.show", {"group": "hall"}).code == "not_found"
    for topic in (desired, topics.build(Kind.HEARTBEAT, group="hall")):
        until(lambda topic=topic: rig.broker.on(topic)[-1] == b"", "what was retained is cleared")  # type: ignore[misc]
    rig.enroll(Device("late", "hall"))
    assert rig.do("group.show", {"group": "hall"})["devices"] == 1


def test_a_group_of_a_rollout_that_goes_on_is_not_forgotten(rig: Rig, devices: dict[str, Device]) -> None:
    newer = releases(rig)["1.2.0"]
    rollout = rig.start(newer, "yard", waves=[1])
    rig.do("device.move", {"device": "lone", "group": "loft"})
    refused = rig.ask("group.forget", {"group": "yard"})
    assert (refused.code, rollout in refused.message) == ("conflict", True)


def test_an_empty_group_is_told_of_a_recall(rig: Rig) -> None:
    rig.do("group.create", {"group": "attic"})
    bundle = releases(rig)["1.0.0"]
    rig.publish(bundle)
    rig.do("release.recall", {"component": COMPONENT, "version": "1.0.0", "reason": "smoke"})
    assert rig.desired("attic").withdrawn == (bundle.digest,)
