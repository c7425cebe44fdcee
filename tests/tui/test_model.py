"""The fleet in memory: what is believed, what is counted, and that nothing that comes in can hurt."""

import json
import random

import pytest
from tests.tui.stage import COMPONENT, NOON, ROLLOUT, Stage
from tests.tui.trouble import troubled

from fleetfoot_protocol import keys, topics
from fleetfoot_protocol.reports import ComponentStatus
from fleetfoot_protocol.topics import Kind
from fleetfoot_tui import facts, filters
from fleetfoot_tui.filters import FilterError, Sight
from fleetfoot_tui.model import Fleet


def told(stage: Stage) -> Fleet:
    """A fleet that has taken what waits in the inbox, and knows the devices' keys."""
    fleet = Fleet(stage.root, stage.clock)
    take(fleet, stage)
    for device, group in stage.members.items():
        fleet.enrolled(device, group, keys.public_of(stage.device_secret), {})
    return fleet


def take(fleet: Fleet, stage: Stage) -> None:
    while len(stage.inbox):
        for topic, payload, retained in stage.inbox.drain(1.0):
            fleet.take(topic, payload, retained=retained)


def test_statuses_are_counted_by_group_version_and_fault(stage: Stage) -> None:
    troubled(stage)
    fleet = told(stage)
    assert fleet.groups["ovens"]["devices"] == 20
    assert fleet.groups["grills"]["online"] == 8
    assert fleet.groups["ovens"]["faulty"] + fleet.groups["grills"]["faulty"] == 4
    assert fleet.versions == {"1.1.0": 27, "1.0.0": 2, "1.2.0": 1}
    assert fleet.refused == 0


def test_counts_follow_every_change_and_end_where_a_count_from_scratch_does(stage: Stage) -> None:
    draw = random.Random(7)  # noqa: S311 - a shuffle, no secret
    fleet = Fleet(stage.root, stage.clock)
    for step in range(300):
        name, group = f"d-{draw.randrange(12)}", draw.choice(("a", "b"))
        version = draw.choice(("1.0.0", "1.1.0", "1.2.0"))
        parts = (stage.runs(version), stage.ended(version, "failed", version, "upgrade_disk_full"))
        presence = draw.choice(("online", "offline"))
        stage.device(name, group, draw.choice(parts), presence=presence, counter=step + 1)
        if draw.random() < 0.1:
            stage.put(Kind.STATUS, b"", group=group, device=name)
        take(fleet, stage)
    again = Fleet(stage.root, stage.clock)
    again.devices = fleet.devices
    for device in again.devices.values():
        device.counted = ()
        again._changed(device)
    assert again.versions == fleet.versions
    assert {g: +c for g, c in again.groups.items()} == {g: +c for g, c in fleet.groups.items()}


def test_only_the_device_itself_can_speak_for_it(stage: Stage) -> None:
    stage.device("oven-1", "ovens", stage.runs("1.1.0"))
    stage.device("oven-2", "ovens", stage.runs("1.1.0"), secret=keys.generate())
    stage.device("oven-3", "ovens", stage.runs("1.1.0"))
    stage.put(Kind.STATUS_ATTESTATION, b"{}", group="ovens", device="oven-3")
    fleet = told(stage)
    verdicts = {name: fleet.attested(device) for name, device in fleet.devices.items()}
    assert verdicts == {"oven-1": "yes", "oven-2": "forged", "oven-3": "unknown"}
    assert fleet.devices["oven-2"].faulty
    assert fleet.groups["ovens"]["faulty"] == 1


def test_a_status_that_was_signed_for_another_place_is_forged(stage: Stage) -> None:
    stage.device("oven-1", "ovens", stage.runs("1.1.0"))
    moved = list(stage.inbox.drain(1.0))
    for topic, payload, _ in moved:
        stage.put(topic.kind, payload, group="ovens", device="oven-2")
    stage.members = {"oven-2": "ovens"}
    fleet = told(stage)
    assert fleet.attested(fleet.devices["oven-2"]) == "forged"


def test_progress_that_the_director_did_not_sign_is_not_shown(stage: Stage) -> None:
    stage.progress(key="alice", state="completed")
    fleet = told(stage)
    assert (fleet.rollouts, fleet.refused) == ({}, 2)
    stage.progress()
    take(fleet, stage)
    assert fleet.rollouts[ROLLOUT].state == "tripped"
    stage.progress(state="running", revision=6)
    take(fleet, stage)
    assert fleet.rollouts[ROLLOUT].state == "tripped", "an older revision came later"


def test_a_status_with_a_lower_counter_is_ignored_until_the_device_lost_its_memory(stage: Stage) -> None:
    stage.device("oven-1", "ovens", stage.runs("1.1.0"), counter=5)
    fleet = told(stage)
    stage.device("oven-1", "ovens", stage.runs("1.0.0"), counter=4)
    take(fleet, stage)
    assert fleet.devices["oven-1"].main.version == "1.1.0"
    stage.device("oven-1", "ovens", stage.runs("1.0.0"), counter=1, incarnation="second")
    take(fleet, stage)
    assert fleet.devices["oven-1"].main.version == "1.0.0"


def test_the_target_is_what_the_device_itself_would_answer(stage: Stage) -> None:
    troubled(stage)
    fleet = told(stage)
    wanted = {name: fleet.target(fleet.devices[name]) for name in ("oven-02", "oven-04", "oven-07")}
    assert wanted == {"oven-02": "1.1.0", "oven-04": "1.2.0", "oven-07": "1.1.0"}
    stage.clock.now = NOON + 2 * 10**6
    assert fleet.target(fleet.devices["oven-07"]) == "", "the document has expired"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"components": 5, "labels": [], "alarms": {"a": 1}, "at": 7, "platform": "x"}',
        b'{"components": {"kiosk": {"state": ["a"], "outcomes": [{"at": {}}], "running": {"counter": -1}}}}',
        b'{"components": {"kiosk": {"outcomes": {"a": "b"}, "refused": {"x": 1e999}, "last_error": "no"}}}',
        b'{"counter": ' + b"9" * 5000 + b"}",
        json.dumps({"components": {f"c{n}": {} for n in range(5000)}}).encode(),
        b"x" * (1 << 20),
    ],
    ids=lambda payload: f"{payload[:12]!r}-{len(payload)}",
)
def test_whatever_comes_as_a_status_changes_the_device_or_nothing(stage: Stage, payload: bytes) -> None:
    fleet = told(stage)
    for kind in (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE, Kind.PROGRESS, Kind.DEVICE_EVENTS):
        stage.put(kind, payload, group="ovens", device="oven-1")
    for kind in (Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION):
        stage.put(kind, payload, group="ovens", rollout="r-1")
    stage.put(Kind.GROUP_DESIRED, payload, group="ovens", component=COMPONENT)
    stage.put(Kind.MANAGER_PRESENCE, payload)
    stage.put(Kind.AUDIT_HEAD, payload)
    take(fleet, stage)
    for device in fleet.devices.values():
        assert fleet.attested(device) == "unknown"
        fleet.target(device)
    assert filters.chosen(fleet, Sight(filter="oven")) in ([], ["oven-1"])


def test_an_event_that_comes_twice_is_shown_once(stage: Stage) -> None:
    stage.event("upgrade_started", "ovens", "oven-1")
    stage.event("upgrade_started", "ovens", "oven-1")
    stage.event("upgrade_started", "ovens", "oven-1", n=2)
    assert len(told(stage).events) == 2


def test_an_inbox_keeps_of_each_topic_the_newest_and_drops_what_is_too_large(stage: Stage) -> None:
    topic = topics.build(Kind.PRESENCE, group="ovens", device="oven-1")
    for word in (b"online", b"offline", b"online"):
        stage.inbox.put(topic, word, False)
    stage.inbox.put(topic, b"x" * (1 << 20), False)
    assert [payload for _, payload, _ in stage.inbox.drain(1.0)] == [b"online"]
    assert stage.inbox.dropped == 1


def test_a_flood_of_events_drops_the_oldest_and_says_how_many(stage: Stage) -> None:
    topic = topics.build(Kind.DEVICE_EVENTS, group="ovens", device="oven-1")
    for n in range(20_007):
        stage.inbox.put(topic, str(n).encode(), False)
    assert stage.inbox.dropped == 7
    assert next(iter(stage.inbox.drain(1.0)))[1] == b"7"


FILTERS = {
    "oven-0[24]": ["oven-02", "oven-04"],
    "boot_failed": ["oven-02"],
    "!1.1.0 !offline": ["oven-05", "oven-07"],
    "offline": ["grill-03", "grill-09"],
    "-l site=berlin oven-2": [f"oven-2{n}" for n in (0, 2, 3, 5, 6, 8, 9)],
    "-l site=paris": [],
    "-l site oven-02": ["oven-02"],
    "-f g9": ["grill-09"],
    "target:1.2.0": ["oven-04", "oven-05", "oven-10"],
    "!target:1.2.0 stale": ["oven-08"],
}


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_shows_who_it_names(stage: Stage, text: str) -> None:
    troubled(stage)
    assert filters.chosen(told(stage), Sight(filter=text)) == FILTERS[text]


@pytest.mark.parametrize("text", ["(", "-l", "-f", "'open", "[z-a]"])
def test_a_filter_that_cannot_be_understood_says_why(stage: Stage, text: str) -> None:
    with pytest.raises(FilterError):
        filters.parse(text, told(stage))


def test_the_worst_come_first_and_faults_alone_if_asked(stage: Stage) -> None:
    troubled(stage)
    fleet = told(stage)
    faulty = filters.chosen(fleet, Sight(faults=True))
    assert faulty == ["grill-09", "oven-02", "oven-07", "oven-08"]
    by_state = next(n for n, order in enumerate(filters.ORDERS) if order.name == "state")
    assert set(filters.chosen(fleet, Sight(order=by_state))[:4]) == set(faulty)


def test_a_range_goes_either_way() -> None:
    keys_shown = ["a", "b", "c", "d"]
    assert filters.ranged(keys_shown, "c", "a") == ["a", "b", "c"]
    assert filters.ranged(keys_shown, "gone", "b") == ["b"]


def _returned(stage: Stage) -> ComponentStatus:
    """A device that was on 1.2.0 and came back to 1.1.0, as a recall or a rollback makes it do."""
    up, back = stage.ended("1.2.0", "completed", "1.2.0"), stage.ended("1.1.0", "completed", "1.1.0")
    return back.model_copy(update={"outcomes": (*up.outcomes, *back.outcomes), "previous": None})


def test_the_badge_is_the_managers(stage: Stage) -> None:
    """Console and command line must not tell two stories of one device."""
    from fleetfoot_manager.requests.devices import badge_of
    from fleetfoot_protocol.states import BADGES

    cases = [
        stage.runs("1.1.0"),
        stage.ended("1.2.0", "rolled_back", "1.1.0", "upgrade_boot_failed"),
        stage.ended("1.2.0", "completed", "1.2.0"),
        stage.rejects("1.2.0", "1.0.0", "upgrade_pinned", "pinned"),
        stage.rejects("1.2.0", "1.0.0", "upgrade_refused_before", "failed before"),
        stage.works("1.2.0", "staged", "1.1.0"),
        stage.works("1.2.0", "rolling_back", "1.1.0"),
        stage.ended("1.1.0", "completed", "1.2.0"),
        stage.ended("1.1.0", "completed", "1.1.0").model_copy(update={"previous": stage.installed("1.2.0")}),
        _returned(stage),
    ]
    shown_as = [badge_of(case)[0] for case in cases]
    assert shown_as[2] == "updated"
    assert shown_as[-3:] == ["idle"] * 3  # it runs something else, went down, or came back
    for case in cases:
        payload = stage.status("oven-1", "ovens", case).payload()
        said = facts.read_status(payload)
        assert said is not None
        shown = said.components[0]
        assert (BADGES[shown.state].word, shown.code) == badge_of(case)[:2]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{",
        b'{"components": []}',
        b'{"components": {"a": 1, "b": {"outcomes": 1}, "c": {"outcomes": [1, {"at": 3, "code": {}}]}}}',
    ],
)
def test_recent_work_is_read_from_whatever_a_device_sends(payload: bytes) -> None:
    found = facts.read_outcomes(payload)
    assert [one.component for one in found] == (["c"] if b'"c"' in payload else [])
