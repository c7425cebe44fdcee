"""The engine: what it takes in, what it publishes when, and what it does not let happen to it."""

import json
import threading
import time
from typing import Any

import pytest
from tests.manager.enginerig import MIRROR, Rig
from tests.manager.realm import COMPONENT, PLATFORM, Device, Realm, ended, runs
from tests.support.stores import tamper
from tests.support.waiting import until

from fleetfoot_manager.engine import MAX_BATCH
from fleetfoot_manager.errands import Errand
from fleetfoot_manager.happenings import Arrived
from fleetfoot_manager.ingest import Ingest
from fleetfoot_manager.rollout import Rollout, RolloutEvent, Tick
from fleetfoot_manager.work import Work
from fleetfoot_protocol import admission, dsse, keys, topics, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Answer, ComponentStatus
from fleetfoot_protocol.states import Lifecycle, RolloutState
from fleetfoot_protocol.topics import Kind

PRESENCE = topics.build(Kind.MANAGER_PRESENCE)
DESIRED = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
HEARTBEAT = topics.build(Kind.HEARTBEAT, group="hall")
EVENTS = topics.build(Kind.GROUP_EVENTS, group="hall")
KEPT = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
DAY = 24 * 3600.0


@pytest.fixture
def device() -> Device:
    return Device("dev-1", "hall")


def events(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in rig.broker.on(EVENTS)]


def alarms(rig: Rig) -> list[str]:
    return [event["errorcode"] for event in events(rig) if event["type"] == "dev.fleetfoot.alarm"]


def settled(rig: Rig) -> None:
    """Everything that was handed in before has been taken in: a request after it is answered."""
    rig.do("manager.status")


def rolling(rig: Rig, realm: Realm, *devices: Device, **more: Any) -> str:
    """A started rollout of 1.1.0 over devices that run 1.0.0."""
    old, new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)
    rig.enroll(*devices)
    rig.publish(old)
    rig.publish(new)
    for one in devices:
        rig.say(one, one.status(runs(old)))
    return rig.start(new, "hall", **more)


# --- statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_status_and_attestation_are_paired_in_either_order(rig: Rig, device: Device, first: int) -> None:
    rig.enroll(device)
    rig.say(device, device.status(agent="0.9.0"), first=first)
    assert rig.device("dev-1")["agent"] == "0.9.0"


def test_a_status_without_attestation_changes_nothing(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    rig.arrive(topics.build(Kind.STATUS, group="hall", device="dev-1"), device.status()[0])
    assert "agent" not in rig.device("dev-1")


def test_a_false_attestation_does_not_keep_the_true_one_out(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    payload, attestation = device.status()
    forged = dsse.attest(PayloadType.STATUS, payload, 1, keys.generate())
    rig.say(device, (payload, forged))
    assert "agent" not in rig.device("dev-1")
    rig.arrive(topics.build(Kind.STATUS_ATTESTATION, group="hall", device="dev-1"), attestation)
    assert rig.device("dev-1")["agent"] == "0.1.0"
    assert rig.engine.ingest.ignored["upgrade_signature_invalid"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "dev-2"}, "upgrade_scope_mismatch"),
        ({"group": "yard"}, "upgrade_scope_mismatch"),
        ({"fleet": "otherfleet"}, "upgrade_scope_mismatch"),
    ],
)
def test_a_status_signed_for_another_place_is_ignored(
    rig: Rig, device: Device, changes: dict[str, Any], reason: str
) -> None:
    rig.enroll(device)
    rig.say(device, device.status(**changes))
    assert "agent" not in rig.device("dev-1")
    assert rig.engine.ingest.ignored[reason] == 1


def test_devices_that_nobody_enrolled_are_ignored_and_counted(rig: Rig) -> None:
    stranger = Device("stranger", "hall")
    rig.say(stranger, stranger.status())
    settled(rig)
    assert rig.engine.ingest.ignored["unknown device"] == 2


def test_an_older_status_is_ignored(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    old, new = device.status(agent="0.1.0"), device.status(agent="0.2.0")
    rig.say(device, new)
    rig.say(device, old)
    assert rig.device("dev-1")["agent"] == "0.2.0"
    assert rig.engine.ingest.ignored["older status"] == 1


def test_the_same_counter_with_other_bytes_is_an_alarm_and_the_first_stays(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    rig.say(device, device.status(agent="0.1.0", counter=5))
    rig.say(device, device.status(agent="0.2.0", counter=5))
    assert rig.device("dev-1")["agent"] == "0.1.0"
    assert alarms(rig) == ["upgrade_equivocation"]


def test_an_agent_that_lost_its_state_counts_anew_and_its_past_never_returns(
    rig: Rig, device: Device
) -> None:
    rig.enroll(device)
    past = device.status(agent="0.1.0", counter=100)
    replayed = device.status(agent="0.1.1", counter=101)
    rig.say(device, past)
    device.incarnation = "second"
    rig.say(device, device.status(agent="0.2.0", counter=1))
    assert rig.device("dev-1")["agent"] == "0.2.0"
    rig.say(device, replayed)
    assert rig.device("dev-1")["agent"] == "0.2.0"
    assert rig.engine.ingest.ignored["past incarnation"] == 1


def test_presence_is_shown(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    topic = topics.build(Kind.PRESENCE, group="hall", device="dev-1")
    rig.arrive(topic, b"online")
    assert rig.device("dev-1")["online"]
    assert rig.do("manager.status")["online"] == 1
    for payload in (b"", b"dancing"):
        rig.arrive(topic, payload)
    assert rig.device("dev-1")["online"]
    rig.arrive(topic, b"offline")
    assert not rig.device("dev-1")["online"]


# --- what a status means for a rollout -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "terminal"),
    [
        ("completed", "", "healthy"),
        ("rolled_back", "upgrade_health_failed", "rolled_back"),
        ("failed", "upgrade_checksum_mismatch", "failed"),
        ("rejected", "upgrade_disabled", "failed"),
    ],
)
def test_an_outcome_ends_a_device(
    rig: Rig, realm: Realm, device: Device, outcome: str, code: str, terminal: str
) -> None:
    name = rolling(rig, realm, device, Device("dev-2", "hall"), immediate=True, breaker=0)
    old, new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)
    digest = rig.show(name)["digest"]
    after = new if outcome == "completed" else old
    said = ended(new, name, outcome, after, code=code).model_dump(mode="json", exclude_none=True)
    text = json.dumps(said).replace(new.digest, digest)
    rig.say(device, device.status(ComponentStatus.model_validate_json(text)))
    assert rig.terminal(name, "dev-1") == terminal


def test_a_version_string_proves_nothing(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, immediate=True)
    impostor = realm.release("1.1.0", 1, content=b"another 1.1.0")
    rig.say(device, device.status(ended(impostor, name, "completed", impostor)))
    assert rig.terminal(name, "dev-1") == "pending"


def test_the_outcome_of_another_attempt_does_not_count(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, immediate=True)
    shown = rig.show(name)
    old = realm.release("1.0.0", 1)
    said = (
        ended(old, name, "rolled_back", old, attempt=2)
        .outcomes[0]
        .model_copy(update={"digest": shown["digest"]})
    )
    rig.say(device, device.status(runs(old, outcomes=(said,))))
    assert rig.terminal(name, "dev-1") == "pending"


def test_work_in_hand_is_active(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, immediate=True)
    digest = rig.show(name)["digest"]
    busy = runs(
        realm.release("1.0.0", 1), state=Lifecycle.DOWNLOADING, rollout=name, attempt=1, target=digest
    )
    rig.say(device, device.status(busy))
    assert rig.terminal(name, "dev-1") == "active"


def answered(rig: Rig, realm: Realm, code: str, *, sequence: int) -> ComponentStatus:
    document = rig.desired("hall")
    verdict = Answer.model_validate_json(
        json.dumps(
            {
                "epoch": document.epoch,
                "sequence": sequence,
                "scope": "group",
                "verdict": "rejected",
                "code": code,
                "reason": "no",
            }
        )
    )
    return runs(realm.release("1.0.0", 1), answered=verdict)


def test_a_rejection_of_the_document_that_stands_is_a_failure(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, immediate=True)
    sequence = rig.desired("hall").sequence
    rig.say(device, device.status(answered(rig, realm, "upgrade_disabled", sequence=sequence)))
    (row,) = rig.show(name)["devices"]
    assert (row["terminal"], row["code"]) == ("failed", "upgrade_disabled")


def test_a_rejection_of_an_older_document_is_no_answer_to_this_one(
    rig: Rig, realm: Realm, device: Device
) -> None:
    name = rolling(rig, realm, device, immediate=True)
    sequence = rig.desired("hall").sequence - 1
    rig.say(device, device.status(answered(rig, realm, "upgrade_disabled", sequence=sequence)))
    assert rig.terminal(name, "dev-1") == "pending"


def test_a_device_ahead_of_the_goal_is_left_alone(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, Device("dev-2", "hall"), immediate=True)
    rig.say(device, device.status(runs(realm.release("2.0.0", 9))))
    assert rig.terminal(name, "dev-1") == "skipped"


def test_a_device_that_was_silent_tells_later_how_it_went(rig: Rig, realm: Realm, device: Device) -> None:
    second = Device("dev-2", "hall")
    name = rolling(rig, realm, device, second, immediate=True, device_timeout=60)
    digest = rig.show(name)["digest"]
    installed = realm.release("1.1.0", 2).installed.model_copy(update={"digest": digest})

    def completes(one: Device) -> None:
        record = ended(realm.release("1.1.0", 2), name, "completed", realm.release("1.1.0", 2)).outcomes[0]
        record = record.model_copy(update={"digest": digest, "running": digest})
        rig.say(one, one.status(ComponentStatus(state=Lifecycle.IDLE, running=installed, outcomes=(record,))))

    completes(second)
    assert rig.terminal(name, "dev-2") == "healthy"
    rig.shift = 61.0
    row = until(lambda: row if (row := rig.show(name))["state"] == "completed" else {}, "time is over")
    assert row["counts"] == {"healthy": 1, "silent": 1}
    completes(device)
    assert rig.show(name)["counts"] == {"healthy": 2}


def test_a_device_that_matches_the_selector_only_now_joins(rig: Rig, realm: Realm, device: Device) -> None:
    second = Device("dev-2", "hall")
    old, new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)
    rig.enroll(device, second)
    rig.publish(new)
    device.labels = {"site": "north"}
    for one in (device, second):
        rig.say(one, one.status(runs(old)))
    name = rig.start(new, "hall", selector={"site": "north"}, immediate=True)
    assert [row["id"] for row in rig.show(name)["devices"]] == ["dev-1"]
    second.labels = {"site": "north"}
    rig.say(second, second.status(runs(old)))
    assert sorted(row["id"] for row in rig.show(name)["devices"]) == ["dev-1", "dev-2"]


# --- publishing -------------------------------------------------------------------------------------------


def test_a_wave_is_one_message_for_a_group(rig: Rig, realm: Realm) -> None:
    devices = [Device(f"dev-{n}", "hall") for n in range(8)]
    rolling(rig, realm, *devices, waves=[2, 8])
    settled(rig)
    assert len(rig.broker.on(DESIRED)) == 1


def test_what_was_not_acknowledged_is_sent_again_in_its_order(rig: Rig, realm: Realm, device: Device) -> None:
    rolling(rig, realm, device)
    settled(rig)
    rig.acknowledge()
    settled(rig)
    rig.disconnect()
    request, payload = realm.request("device.enroll", {"devices": [Device("dev-2", "yard").enrolment]})
    rig.arrive(topics.build(Kind.REQUESTS, operator="alice"), payload)
    before = len(rig.broker.sent)
    rig.connect()
    until(lambda: rig.replies(request.id), "the reply that waited")
    settled(rig)
    again = [sent.topic for sent in rig.broker.sent[before:]]
    # The reply that told that the acknowledgements were taken in was not acknowledged itself.
    replies = topics.build(Kind.REPLIES, operator="alice")
    documents = [topics.build(Kind.AUDIT_HEAD), topics.build(Kind.HEARTBEAT, group="yard")]
    assert again[:4] == [replies, *documents, replies]
    assert EVENTS not in again


def test_on_every_connect_all_documents_are_told_again(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device)
    settled(rig)
    rig.acknowledge()
    before = {sent.topic: sent.payload for sent in rig.broker.sent if sent.retained}
    start = len(rig.broker.sent)
    rig.disconnect()
    rig.connect()
    again: dict[str, bytes] = until(
        lambda: (
            told
            if len(told := {s.topic: s.payload for s in rig.broker.sent[start:] if s.retained}) == len(before)
            else {}
        ),
        "everything is told again",
    )
    assert again == before
    assert topics.build(Kind.ROLLOUT, group="hall", rollout=name) in again
    assert topics.build(Kind.TRUST_ROOT, step="1") in again
    assert again[PRESENCE] == b"online"
    assert set(before) <= set(rig.broker.filters)


def test_what_comes_back_of_our_own_is_no_news(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device)
    rig.do("rollout.pause", {"rollout": name})
    rig.do("rollout.resume", {"rollout": name})
    sent = rig.broker.on(DESIRED)
    assert len(sent) == 3
    for payload in sent:
        rig.arrive(DESIRED, payload)
    settled(rig)
    assert rig.broker.on(DESIRED) == sent
    assert alarms(rig) == []


def echo_everything(rig: Rig) -> None:
    """The broker hands our own messages back, as brokers do."""
    settled(rig)
    for sent in list(rig.broker.sent):
        if sent.retained:
            rig.arrive(sent.topic, sent.payload)
    settled(rig)


def test_a_forged_document_is_an_alarm_and_is_replaced_at_most_once_a_second(
    rig: Rig, realm: Realm, device: Device
) -> None:
    rolling(rig, realm, device)
    echo_everything(rig)
    stored = rig.broker.on(DESIRED)[-1]
    forged = dsse.encode(dsse.sign(PayloadType.DESIRED, dsse.decode(stored).payload, keys.generate()))
    for _ in range(20):
        rig.arrive(DESIRED, forged)
    until(lambda: len(rig.broker.on(DESIRED)) > 1, "the stored bytes follow")
    settled(rig)
    assert rig.broker.on(DESIRED) == [stored, stored]
    assert alarms(rig) == ["upgrade_signature_invalid"]


def test_an_old_document_of_ours_is_replaced_without_alarm(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device)
    rig.do("rollout.pause", {"rollout": name})
    echo_everything(rig)
    old, new = rig.broker.on(DESIRED)
    rig.arrive(DESIRED, old, retained=True)
    until(lambda: rig.broker.on(DESIRED) == [old, new, new], "the stored bytes follow")
    assert alarms(rig) == []


@pytest.mark.parametrize("later", [0, 1000_000])
def test_a_document_of_ours_that_is_not_stored_is_outdone(
    rig: Rig, realm: Realm, device: Device, later: int
) -> None:
    """As after a store was restored from an old copy, or with two managers on one key."""
    rolling(rig, realm, device)
    echo_everything(rig)
    stored = rig.desired("hall")
    other = stored.model_copy(update={"sequence": stored.sequence + later, "hold": True})
    rig.arrive(DESIRED, rig.house.director.envelope(PayloadType.DESIRED, other))
    until(lambda: rig.desired("hall").sequence > other.sequence, "a newer document")
    assert not rig.desired("hall").hold
    assert alarms(rig) == ["upgrade_equivocation"]


def test_a_late_last_will_is_corrected(rig: Rig) -> None:
    settled(rig)
    echo_everything(rig)
    before = len(rig.broker.on(PRESENCE))
    rig.arrive(PRESENCE, b"offline")
    until(lambda: len(rig.broker.on(PRESENCE)) > before, "online again")
    assert rig.broker.on(PRESENCE)[-1] == b"online"


# --- time -------------------------------------------------------------------------------------------------


def test_a_device_timeout_is_at_most_a_second_late(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, device_timeout=100)
    rig.shift = 100.5
    tripped = "dev.fleetfoot.circuit_breaker_tripped"
    until(lambda: tripped in [event["type"] for event in events(rig)], "the timeout", seconds=3)
    assert rig.show(name)["state"] == "tripped"


def test_who_has_spoken_is_not_silent_because_the_engine_is_behind(
    rig: Rig, realm: Realm, device: Device
) -> None:
    name = rolling(rig, realm, device, device_timeout=100)
    new = realm.release("1.1.0", 2)
    well = ended(new, name, "completed", new).model_dump_json(exclude_none=True)
    well = well.replace(new.digest, rig.show(name)["digest"])
    asked, leave = threading.Event(), threading.Event()

    def slow(work: Work) -> None:
        asked.set()
        assert leave.wait(20)

    rig.engine.put(Errand(slow))
    assert asked.wait(20)
    # Longer than one batch: the word of the device is not in the first one that the engine takes in then.
    rig.engine.put_all([Arrived(PRESENCE, b"online", False)] * (MAX_BATCH + 1))
    rig.say(device, device.status(ComponentStatus.model_validate_json(well)))
    rig.shift = 101
    leave.set()
    until(lambda: rig.show(name)["state"] == "completed", "it is heard")
    assert "dev.fleetfoot.circuit_breaker_tripped" not in [event["type"] for event in events(rig)]


def test_a_flood_stops_no_time_for_ever(rig: Rig, realm: Realm, device: Device) -> None:
    name = rolling(rig, realm, device, device_timeout=100)
    ending = threading.Event()

    def flood() -> None:
        while not ending.is_set():
            # Always more than a turn takes in, and never more than a slow machine works off in the end.
            if rig.engine.queued < 2 * MAX_BATCH:
                rig.engine.put_all([Arrived(PRESENCE, b"online", False)] * MAX_BATCH)
            else:
                ending.wait(0.001)

    floods = threading.Thread(target=flood)
    floods.start()
    try:
        rig.shift = 401
        until(lambda: rig.engine.live[0].state is RolloutState.TRIPPED, "the timeout")
    finally:
        ending.set()
        floods.join()
    assert rig.show(name)["state"] == "tripped"


def test_what_an_awaited_device_left_is_asked_for_when_it_is_not_heard(
    rig: Rig, realm: Realm, device: Device
) -> None:
    """A broker may lose what it has acknowledged: then what it keeps is all there is of it."""
    away = Device("dev-2", "hall")
    rig.connect()
    rolling(rig, realm, device, away, immediate=True)
    for one, said in ((device, b"online"), (away, b"offline")):
        rig.arrive(topics.build(Kind.PRESENCE, group="hall", device=one.id), said)
    settled(rig)
    rig.broker.fetched.clear()
    rig.shift = 20
    settled(rig)
    assert rig.broker.fetched == []
    rig.shift = 120
    kept = [topics.build(kind, group="hall", device=device.id) for kind in KEPT]
    until(lambda: rig.broker.fetched, "what it left is asked for")
    assert rig.broker.fetched == kept


def test_whom_no_rollout_awaits_is_not_asked_for(rig: Rig, device: Device) -> None:
    rig.connect()
    rig.enroll(device)
    rig.arrive(topics.build(Kind.PRESENCE, group="hall", device=device.id), b"online")
    settled(rig)
    rig.broker.fetched.clear()
    rig.shift = 120
    settled(rig)
    assert rig.broker.fetched == []


def test_documents_are_renewed_at_half_of_their_life(rig: Rig, realm: Realm, device: Device) -> None:
    rolling(rig, realm, device, device_timeout=29 * 24 * 3600)
    first = rig.desired("hall")
    rig.shift = 14.9 * DAY
    settled(rig)
    assert rig.desired("hall") == first
    rig.shift = 15.1 * DAY
    until(lambda: rig.desired("hall").sequence > first.sequence, "a renewed document")
    second = rig.desired("hall")
    assert second.expires > first.expires
    assert second.targets == first.targets


def test_a_heartbeat_goes_out_every_hour_and_names_the_newest_documents(
    rig: Rig, realm: Realm, device: Device
) -> None:
    rolling(rig, realm, device)
    settled(rig)
    beat = trust.verify_heartbeat(rig.broker.on(HEARTBEAT)[-1], realm.root)
    assert beat.components[COMPONENT].sequence == rig.desired("hall").sequence
    before = len(rig.broker.on(HEARTBEAT))
    rig.shift = 3601.0
    until(lambda: len(rig.broker.on(HEARTBEAT)) > before, "the next heartbeat")


def test_everything_is_told_again_after_six_hours(rig: Rig) -> None:
    settled(rig)
    topic = topics.build(Kind.TRUST_ROOT, step="1")
    before = len(rig.broker.on(topic))
    rig.shift = 6 * 3600.0
    until(lambda: len(rig.broker.on(topic)) > before, "the root again")


# --- starting again, and faults ---------------------------------------------------------------------------


def test_after_a_restart_everything_is_as_it_was(realm: Realm, device: Device) -> None:
    first = Rig(realm)
    first.connect()
    name = rolling(first, realm, device)
    row, document = first.show(name), first.desired("hall")
    first.close()
    second = Rig(realm)
    second.connect()
    try:
        assert second.show(name) == row
        assert second.desired("hall") == document
    finally:
        second.close()


def test_another_mirror_is_told_to_the_devices_at_once(realm: Realm, device: Device) -> None:
    first = Rig(realm)
    first.connect()
    rolling(first, realm, device)
    before = first.desired("hall")
    first.close()
    assert before.mirror == MIRROR
    second = Rig(realm, mirror="http://other.invalid")
    second.connect()
    try:
        until(lambda: second.desired("hall").mirror == "http://other.invalid", "the other mirror")
        assert second.desired("hall").sequence > before.sequence
    finally:
        second.close()


def test_a_new_epoch_of_the_root_signs_every_document_anew(realm: Realm, device: Device) -> None:
    first = Rig(realm)
    first.connect()
    rolling(first, realm, device)
    before = first.desired("hall")
    first.close()
    root = realm.root.model_copy(update={"version": 2, "epoch": 2})
    realm.root_path.write_bytes(realm.sign_root(root))
    second = Rig(realm)
    second.connect()
    try:
        assert second.desired("hall").epoch == 2
        assert second.desired("hall").targets == before.targets
    finally:
        second.close()


def test_an_input_that_fails_is_dropped_alone(
    rig: Rig, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.enroll(device)
    whole = Ingest.judge

    def fragile(self: Ingest, work: Any, pair: Any) -> None:
        whole(self, work, pair)
        if b"6.6.6" in pair.status:
            raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(Ingest, "judge", fragile)
    for agent in ("0.9.0", "6.6.6"):
        rig.say(device, device.status(agent=agent))
    assert rig.device("dev-1")["agent"] == "0.9.0"
    assert rig.engine.dropped["status"] == 1


def test_a_message_that_fails_ends_nothing(rig: Rig, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.enroll(device)
    whole = Ingest.message

    def fragile(self: Ingest, work: Any, topic: Any, payload: bytes, *, retained: bool) -> Any:
        if payload == b"offline":
            raise ZeroDivisionError("on purpose")
        return whole(self, work, topic, payload, retained=retained)

    monkeypatch.setattr(Ingest, "message", fragile)
    topic = topics.build(Kind.PRESENCE, group="hall", device="dev-1")
    for payload in (b"online", b"offline"):
        rig.arrive(topic, payload)
    assert rig.device("dev-1")["online"]
    assert rig.engine.dropped["Arrived"] == 1


def test_a_store_that_fails_ends_the_manager(rig: Rig) -> None:
    settled(rig)
    tamper(rig.realm.state, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
    rig.arrive("ff/v1/groups/hall/devices/dev-1/presence", b"online")
    assert rig.ended.wait(10)
    assert "taken over" in str(rig.engine.failure)


def test_a_manager_that_fails_says_that_it_is_gone(rig: Rig) -> None:
    settled(rig)
    rig.acknowledge()
    tamper(rig.realm.state, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
    rig.arrive("ff/v1/groups/hall/devices/dev-1/presence", b"online")
    until(lambda: rig.broker.on(PRESENCE)[-1:] == [b"offline"], "offline")


def test_the_engine_rests_while_it_cannot_do_what_is_due(rig: Rig, realm: Realm, device: Device) -> None:
    rolling(rig, realm, device)
    echo_everything(rig)
    rig.disconnect()
    rig.arrive(DESIRED, b"forged")
    looks = rig.looks
    end = time.monotonic() + 1.5
    until(lambda: time.monotonic() > end, "a while")
    assert rig.looks - looks < 50


def test_a_timer_that_fails_is_tried_again_once_a_second(
    rig: Rig, realm: Realm, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rolling(rig, realm, device, device_timeout=100)
    whole = Work.advance
    tried: list[float] = []

    def fragile(self: Work, which: str, event: RolloutEvent) -> Rollout:
        if isinstance(event, Tick) and len(tried) < 2:
            tried.append(time.monotonic())
            raise ZeroDivisionError("on purpose")
        return whole(self, which, event)

    monkeypatch.setattr(Work, "advance", fragile)
    rig.shift = 101.0
    until(lambda: rig.show(name)["state"] == "tripped", "the timeout, at the third attempt")
    assert tried[1] - tried[0] > 0.9


HOSTILE: list[tuple[str, bytes]] = [
    ("", b""),
    ("ff", b"x"),
    ("ff/v1/groups/hall/devices/dev-1/status", b"\xff\xfe"),
    ("ff/v1/groups/hall/devices/dev-1/status/attestation", b"[" * 60_000),
    ("ff/v1/groups/hall/devices/dev-1/status/attestation", b'{"sha256": 7}'),
    ("ff/v1/groups/hall/devices/dev-1/status/attestation", b'"text"'),
    ("ff/v1/groups/hall/devices/dev-1/status", b"{}"),
    ("ff/v1/operators/alice/requests", b"{}"),
    ("ff/v1/operators/alice/requests", b"\x00" * 1000),
    ("ff/v1/operators/nobody/requests", b'{"payload":"","payloadType":"","signatures":[]}'),
    ("ff/v1/groups/hall/desired/kiosk", b"nobody has such a document"),
    ("ff/v1/releases/kiosk/" + "0" * 64, b"x"),
    ("ff/v1/trust/root/1", b"x"),
    ("ff/v1/manager/presence", b"\x00"),
]


def test_nothing_that_arrives_stops_the_engine(rig: Rig, device: Device) -> None:
    rig.enroll(device)
    for topic, payload in HOSTILE:
        rig.arrive(topic, payload)
    rig.say(device, device.status())
    assert rig.device("dev-1")["platform"] == f"{PLATFORM.os}/{PLATFORM.arch}"
    assert rig.engine.failure is None


def test_a_document_stays_small_whatever_the_fleet(rig: Rig, realm: Realm) -> None:
    sizes = []
    for count in (2, 200):
        group = f"group-{count}"
        devices = [Device(f"{group}-{n}", group) for n in range(count)]
        rig.enroll(*devices)
        if count == 2:
            rig.publish(realm.release("1.1.0", 2))
        facts = {"component": COMPONENT, "version": "1.1.0", "groups": [group], "waves": [1, "100%"]}
        rig.do("group.policy", {"group": group, "approval": "never"})
        rig.do("rollout.start", facts)
        sizes.append(len(rig.desired(group).payload()))
    assert sizes[0] == sizes[1] - len("group-200") + len("group-2")


def test_the_document_of_a_wave_admits_exactly_its_devices(rig: Rig, realm: Realm) -> None:
    devices = [Device(f"dev-{n:03}", "hall") for n in range(50)]
    rig.enroll(*devices)
    rig.publish(realm.release("1.1.0", 2))
    rig.start(realm.release("1.1.0", 2), "hall", waves=["10%", "100%"])
    document: Desired = rig.desired("hall")
    (target,) = document.targets
    admitted = [one for one in devices if admission.admitted(target, one.id, {}, target.activate_cut)]
    assert len(admitted) == 5
