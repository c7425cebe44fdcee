"""The spool: what each side writes the other reads, and what neither believes (contract section 6)."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_agent.spool import (
    BlobState,
    BlobWant,
    CourierSide,
    Link,
    ManifestWant,
    WakeAt,
    Want,
    WorkerSide,
    forms,
    is_slot,
    take_wake,
    wake,
    wake_pending,
)
from fleetfoot_agent.spool.events import EventFolder

SHA = hashlib.sha256(b"blob").hexdigest()
WANT = Want(
    manifests=(ManifestWant("kiosk", "a" * 64),),
    roots=(2, 3),
    blobs=(BlobWant(SHA, 4, ("http://127.0.0.1/x", "https://mirror/x"), rate=1000, deadline=1.5e9),),
    keep=("c" * 64,),
)


@pytest.fixture
def courier(tmp_path: Path) -> CourierSide:
    return CourierSide(tmp_path)


@pytest.fixture
def worker(tmp_path: Path) -> WorkerSide:
    return WorkerSide(tmp_path)


def payloads(worker: WorkerSide, slot: str) -> list[bytes]:
    return [message.payload for message in worker.messages(slot)]


def event(name: str, filling: int = 0) -> bytes:
    return json.dumps({"type": f"dev.fleetfoot.{name}", "data": "x" * filling}).encode()


# Messages


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("heartbeat", True),
        ("group.kiosk", True),
        ("own.kiosk", True),
        ("probe.kiosk", True),
        ("root.17", True),
        ("manifest." + "0" * 64, True),
        ("manifest." + "0" * 63, False),
        ("root.0", False),
        ("group.", False),
        ("group.Kiosk", False),
        ("group.a/../b", False),
        ("..", False),
        ("heartbeat\n", False),
    ],
)
def test_only_the_slots_of_the_contract_are_slots(name: str, known: bool) -> None:
    assert is_slot(name) is known


def test_a_message_arrives_as_it_came_and_its_bytes_only_once(
    courier: CourierSide, worker: WorkerSide
) -> None:
    assert courier.store_message("group.kiosk", b"one")
    assert not courier.store_message("group.kiosk", b"one")
    assert courier.store_message("own.kiosk", b"one")
    assert worker.slots() == ["group.kiosk", "own.kiosk"]
    (message,) = worker.messages("group.kiosk")
    assert (message.payload, message.arrival, message.unread) == (b"one", 1, True)


def test_an_empty_message_is_not_kept(courier: CourierSide, worker: WorkerSide) -> None:
    assert not courier.store_message("heartbeat", b"")
    assert worker.slots() == []


def test_a_message_that_is_too_large_is_cut_to_one_byte_too_many(
    courier: CourierSide, worker: WorkerSide
) -> None:
    assert courier.store_message("heartbeat", b"x" * 1024 * 1024)
    assert payloads(worker, "heartbeat") == [b"x" * (64 * 1024 + 1)]
    assert not courier.store_message("heartbeat", b"x" * 2 * 1024 * 1024)


def test_the_largest_message_is_kept(courier: CourierSide, worker: WorkerSide) -> None:
    assert courier.store_message("heartbeat", b"x" * 64 * 1024)
    assert payloads(worker, "heartbeat") == [b"x" * 64 * 1024]


def test_a_name_that_is_no_slot_is_refused(courier: CourierSide) -> None:
    with pytest.raises(ValueError, match="not a message slot"):
        courier.store_message("../../etc", b"x")


def test_of_a_flood_the_first_seven_and_the_newest_are_kept(courier: CourierSide, worker: WorkerSide) -> None:
    for number in range(1, 21):
        courier.store_message("group.kiosk", b"%d" % number)
    assert payloads(worker, "group.kiosk") == [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"20"]


def test_what_was_seen_is_deleted_except_the_newest_and_makes_room(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    for number in range(1, 4):
        courier.store_message("group.kiosk", b"%d" % number)
    worker.mark_seen({"group.kiosk": 3})
    courier.drop_seen()
    assert [(m.payload, m.unread) for m in worker.messages("group.kiosk")] == [(b"3", False)]
    assert not courier.store_message("group.kiosk", b"3")
    assert courier.store_message("group.kiosk", b"4")
    assert [(m.payload, m.arrival, m.unread) for m in worker.messages("group.kiosk")] == [(b"4", 4, True)]
    assert len(list((tmp_path / "in/msg/group.kiosk").iterdir())) == 1


def test_unread_messages_survive_the_marking_of_older_ones(courier: CourierSide, worker: WorkerSide) -> None:
    for number in range(1, 6):
        courier.store_message("group.kiosk", b"%d" % number)
    worker.mark_seen({"group.kiosk": 2})
    courier.drop_seen()
    assert payloads(worker, "group.kiosk") == [b"3", b"4", b"5"]


def test_arrivals_rise_across_restarts_and_even_when_the_folder_was_emptied(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    courier.store_message("group.kiosk", b"1")
    courier.store_message("group.kiosk", b"2")
    again = CourierSide(tmp_path)
    again.store_message("group.kiosk", b"3")
    assert [m.arrival for m in worker.messages("group.kiosk")] == [1, 2, 3]
    worker.mark_seen({"group.kiosk": 3})
    for path in (tmp_path / "in/msg/group.kiosk").iterdir():
        path.unlink()
    again.store_message("group.kiosk", b"4")
    (message,) = WorkerSide(tmp_path).messages("group.kiosk")
    assert (message.arrival, message.unread) == (4, True)


def test_seen_is_never_taken_back_and_forgets_slots_that_are_gone(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    courier.store_message("root.2", b"r")
    courier.store_message("heartbeat", b"h")
    worker.mark_seen({"root.2": 1, "heartbeat": 5})
    worker.mark_seen({"heartbeat": 4})
    assert json.loads((tmp_path / "out/seen.json").read_bytes()) == {"root.2": 1, "heartbeat": 5}
    courier.keep_slots(lambda slot: slot == "heartbeat")
    assert worker.slots() == ["heartbeat"]
    worker.mark_seen({"heartbeat": 6})
    assert json.loads((tmp_path / "out/seen.json").read_bytes()) == {"heartbeat": 6}


# Small files, both ways


def test_the_worker_reads_what_the_courier_tells(courier: CourierSide, worker: WorkerSide) -> None:
    assert (worker.link(), worker.acked(), worker.blob_state(SHA)) == (None, 0, BlobState(0))
    courier.write_link(Link(True, 12.5, "boot"))
    courier.write_acked(10**19)
    courier.write_blob_state(SHA, BlobState(3, "upgrade_download_failed", "http://127.0.0.1/x"))
    assert worker.link() == Link(True, 12.5, "boot")
    assert worker.acked() == courier.read_acked() == 10**19
    assert worker.blob_state(SHA) == BlobState(3, "upgrade_download_failed", "http://127.0.0.1/x")


def test_the_courier_reads_what_the_worker_wants(courier: CourierSide, worker: WorkerSide) -> None:
    assert courier.read_want() is None
    worker.write_want(WANT)
    worker.write_wake_at(WakeAt("boot", 17.25, 1.8e9))
    assert courier.read_want() == worker.want() == WANT
    assert courier.read_wake_at() == WakeAt("boot", 17.25, 1.8e9)
    worker.write_wake_at(None)
    worker.write_wake_at(None)
    assert courier.read_wake_at() is None


def test_an_unchanged_want_is_written_anew_only_to_ask_again(
    courier: CourierSide, worker: WorkerSide
) -> None:
    worker.write_want(WANT)
    first = courier.marks()
    worker.write_want(WANT)
    assert courier.marks() == first
    worker.write_want(WANT, again=True)
    assert courier.marks().want != first.want


@pytest.mark.parametrize(
    "wrong",
    [
        replace(WANT, roots=(0,)),
        replace(WANT, manifests=(ManifestWant("Kiosk", "a" * 64),)),
        replace(WANT, blobs=(BlobWant("short", 1, ()),)),
        replace(WANT, blobs=(BlobWant(SHA, -1, ()),)),
        replace(WANT, blobs=(BlobWant(SHA, 1, ("http://x/\n",)),)),
        replace(WANT, blobs=(BlobWant(SHA, 1, (), rate=0),)),
        replace(WANT, keep=("short",)),
    ],
)
def test_a_want_that_the_courier_would_ignore_cannot_be_written(worker: WorkerSide, wrong: Want) -> None:
    with pytest.raises(ValueError, match="list of wants"):
        worker.write_want(wrong)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = (
    "manifests",
    "roots",
    "blobs",
    "have",
    "error",
    "source",
    "up",
    "since",
    "boot_id",
    "boottime",
    "wall",
)


@given(
    st.binary(max_size=64)
    | st.dictionaries(st.sampled_from(_KEYS), _JSON).map(lambda v: json.dumps(v).encode())
)
def test_garbage_is_ignored_and_never_an_exception(data: bytes) -> None:
    for parse in (forms.parse_blob_state, forms.parse_link, forms.parse_wake_at, forms.parse_seen):
        parse(data)
    want = forms.parse_want(data)
    assert want is None or forms.parse_want(want.to_bytes()) == want
    acked = forms.parse_acked(data)
    assert acked is None or forms.parse_acked(forms.acked_to_bytes(acked)) == acked
    forms.attested_digest(data)


@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"have":' + b"9" * 5000 + b"}", b"\xff\xfe", b"null", b"{"]
)
def test_hostile_json_is_no_form(data: bytes) -> None:
    assert forms.parse_want(data) is None
    assert forms.parse_blob_state(data) is None


def test_unknown_keys_of_another_version_are_ignored() -> None:
    value = json.loads(WANT.to_bytes())
    value["blobs"][0]["priority"] = 3
    value["later"] = []
    assert forms.parse_want(json.dumps(value).encode()) == WANT


def test_an_agent_that_keeps_nothing_says_nothing_of_it() -> None:
    value = json.loads(WANT.to_bytes())
    del value["keep"]
    assert forms.parse_want(json.dumps(value).encode()) == replace(WANT, keep=())


def test_one_wrong_entry_spoils_the_list_so_that_nothing_is_deleted_by_mistake() -> None:
    value = json.loads(WANT.to_bytes())
    value["blobs"].append({"sha256": SHA})
    assert forms.parse_want(json.dumps(value).encode()) is None


# The status pair


def attestation_of(status: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(status).hexdigest(), "counter": 1}).encode()


def test_a_status_is_read_with_its_own_attestation_only(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    worker.write_status(b"{1}", attestation_of(b"{1}"))
    assert courier.read_status() == (b"{1}", attestation_of(b"{1}"))
    (tmp_path / "out/status.json").write_bytes(b"{2}")
    assert courier.read_status() is None
    worker.write_status(b"{2}", attestation_of(b"{2}"))
    assert courier.read_status() == (b"{2}", attestation_of(b"{2}"))


def test_an_attestation_of_other_bytes_cannot_be_written(worker: WorkerSide) -> None:
    with pytest.raises(ValueError, match="does not belong"):
        worker.write_status(b"{1}", attestation_of(b"{2}"))


# Blobs


def test_the_worker_opens_a_blob_of_the_right_length_only(courier: CourierSide, worker: WorkerSide) -> None:
    assert worker.open_blob(SHA, 4) is None
    with courier.open_blob(SHA) as blob:
        blob.write(b"bl")
    assert worker.open_blob(SHA, 4) is None
    with courier.open_blob(SHA) as blob:
        blob.write(b"ob")
    found = worker.open_blob(SHA, 4)
    assert found is not None
    with found:
        assert found.read() == b"blob"


def test_blobs_that_are_not_listed_are_deleted_with_their_state(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    other = "b" * 64
    for sha256 in (SHA, other):
        courier.open_blob(sha256).close()
        courier.write_blob_state(sha256, BlobState(0))
    courier.keep_blobs([SHA])
    assert sorted(path.name for path in (tmp_path / "in/blob").iterdir()) == [SHA, f"{SHA}.json"]


def test_of_a_blob_that_is_kept_the_bytes_stay_and_not_how_the_last_try_ended(
    courier: CourierSide, tmp_path: Path
) -> None:
    courier.open_blob(SHA).close()
    courier.write_blob_state(SHA, BlobState(0, "upgrade_download_failed"))
    courier.keep_blobs([], [SHA])
    assert [path.name for path in (tmp_path / "in/blob").iterdir()] == [SHA]


# Events


def test_events_are_numbered_in_order_and_go_when_they_are_acknowledged(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    for name in ("upgrade_started", "upgrade_staged", "upgrade_completed"):
        assert worker.append_event(event(name)) == 0
    numbers = courier.event_numbers()
    assert numbers == sorted(set(numbers))
    assert [json.loads(courier.read_event(n) or b"")["type"] for n in numbers] == [
        "dev.fleetfoot.upgrade_started",
        "dev.fleetfoot.upgrade_staged",
        "dev.fleetfoot.upgrade_completed",
    ]
    courier.write_acked(numbers[1])
    assert worker.drop_acked_events() == 2
    assert courier.event_numbers() == numbers[2:]
    courier.write_acked(numbers[2])
    again = WorkerSide(tmp_path)
    assert again.drop_acked_events() == 1
    again.append_event(event("upgrade_started"))
    assert courier.event_numbers()[0] > numbers[2]


def test_numbers_rise_above_what_the_courier_says_but_not_above_a_lie(
    courier: CourierSide, worker: WorkerSide
) -> None:
    courier.write_acked(10**18)
    worker.append_event(event("upgrade_started"))
    assert courier.event_numbers() == [10**18 + 1]
    courier.write_acked(10**20 - 1)
    assert worker.drop_acked_events() == 1
    worker.append_event(event("upgrade_started"))
    assert 0 < courier.event_numbers()[0] < 10**18


def test_without_room_progress_goes_first_and_outcomes_last(tmp_path: Path) -> None:
    names = ["upgrade_completed", "upgrade_started", "upgrade_deferred", "upgrade_staged", "alarm"]
    folder = EventFolder(tmp_path / "event", max_files=len(names))
    for name in names:
        folder.append(event(name), 0)

    def left() -> list[str]:
        return [
            json.loads(path.read_bytes())["type"].removeprefix("dev.fleetfoot.")
            for path in sorted((tmp_path / "event").iterdir())
        ]

    folder = EventFolder(tmp_path / "event", max_files=len(names))  # the next run of the worker
    assert folder.append(event("upgrade_rolled_back"), 0) == 1
    assert left() == [
        "upgrade_completed",
        "upgrade_deferred",
        "upgrade_staged",
        "alarm",
        "upgrade_rolled_back",
    ]
    assert folder.append(event("upgrade_rejected"), 0) == 1
    assert folder.append(event("upgrade_download_failed"), 0) == 1
    assert left() == [
        "upgrade_completed",
        "alarm",
        "upgrade_rolled_back",
        "upgrade_rejected",
        "upgrade_download_failed",
    ]
    assert folder.append(event("upgrade_started"), 0) == 1
    assert "upgrade_started" not in left()
    assert folder.append(event("upgrade_completed"), 0) == 1
    assert left()[0] == "alarm"


def test_the_outbox_is_bounded_in_bytes_too(worker: WorkerSide, tmp_path: Path) -> None:
    dropped = sum(worker.append_event(event("upgrade_started", 60_000)) for _ in range(80))
    sizes = [path.stat().st_size for path in (tmp_path / "out/event").iterdir()]
    assert sum(sizes) <= 4 * 1024 * 1024 < sum(sizes) + sizes[0]
    assert dropped + len(sizes) == 80


def test_an_event_larger_than_a_message_is_refused(worker: WorkerSide) -> None:
    with pytest.raises(ValueError, match="at most"):
        worker.append_event(b"x" * (64 * 1024 + 1))


# What nobody believes


def plant(path: Path, kind: str, secret: Path) -> None:
    """Put at `path` something that is not a plain file with one name."""
    secret.write_bytes(b'{"up":true,"since":1,"boot_id":"x"}')
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "hard link":
        path.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as huge:
            huge.truncate(1 << 30)


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder", "huge"])
def test_a_file_that_is_none_is_ignored_on_both_sides(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    courier.store_message("heartbeat", b"x")
    courier.open_blob(SHA).close()
    worker.append_event(event("alarm"))
    (number,) = courier.event_numbers()
    names = ["in/link.json", "in/acked", f"in/blob/{SHA}.json", "in/msg/heartbeat/" + "0" * 19 + "1"]
    names += ["out/want.json", "out/seen.json", "out/status.json", "out/status.sig", "out/wake_at.json"]
    names += [f"out/event/{number:020d}.json"]
    for name in names:
        plant(tmp_path / name, kind, secret)
    assert (worker.link(), worker.acked(), worker.blob_state(SHA)) == (None, 0, BlobState(0))
    assert worker.messages("heartbeat") == []
    assert (courier.read_want(), courier.read_status(), courier.read_wake_at()) == (None, None, None)
    assert courier.read_event(number) is None
    courier.drop_seen()
    assert courier.store_message("heartbeat", b"y")


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
def test_a_blob_that_is_no_plain_file_is_not_opened(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path, kind: str
) -> None:
    plant(tmp_path / "in/blob" / SHA, kind, tmp_path / "secret")
    size = (tmp_path / "secret").stat().st_size
    assert worker.open_blob(SHA, size) is None
    assert worker.open_blob(SHA, 0) is None


def test_no_link_on_the_way_is_followed(worker: WorkerSide, tmp_path: Path) -> None:
    elsewhere = CourierSide(tmp_path / "elsewhere")
    elsewhere.store_message("heartbeat", b"x")
    with elsewhere.open_blob(SHA) as blob:
        blob.write(b"blob")
    (tmp_path / "in").mkdir()
    for name in ("msg", "blob"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere/in" / name)
    assert worker.slots() == []
    assert worker.messages("heartbeat") == []
    assert worker.open_blob(SHA, 4) is None


def test_names_that_are_none_are_passed_over(
    courier: CourierSide, worker: WorkerSide, tmp_path: Path
) -> None:
    courier.store_message("heartbeat", b"x")
    (tmp_path / "in/msg/..evil").mkdir()
    (tmp_path / "in/msg/heartbeat/9999").write_bytes(b"y")
    (tmp_path / "in/msg/heartbeat/.tmp-1").write_bytes(b"z")
    worker.append_event(event("alarm"))
    (tmp_path / "out/event/zzz.json").write_bytes(b"")
    assert worker.slots() == ["heartbeat"]
    assert payloads(worker, "heartbeat") == [b"x"]
    assert len(courier.event_numbers()) == 1


def test_each_side_clears_what_it_left_unfinished_and_nothing_else(tmp_path: Path) -> None:
    CourierSide(tmp_path).store_message("heartbeat", b"x")
    WorkerSide(tmp_path)
    mine = [tmp_path / "in" / name for name in (".tmp-1", "blob/.tmp-2", "msg/heartbeat/.tmp-3")]
    theirs = [tmp_path / "out" / name for name in (".tmp-4", "event/.tmp-5")]
    for path in (*mine, *theirs):
        path.write_bytes(b"half")
    CourierSide(tmp_path)
    assert [path.exists() for path in (*mine, *theirs)] == [False] * 3 + [True] * 2
    WorkerSide(tmp_path)
    assert not any(path.exists() for path in theirs)


# The wake


def test_a_wake_is_asked_for_once_and_taken_once(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "wake"
    assert not wake_pending(folder)
    assert not take_wake(folder)
    wake(folder)
    wake(folder)
    assert wake_pending(folder)
    assert take_wake(folder)
    assert not wake_pending(folder)
    assert not take_wake(folder)
    assert list(folder.iterdir()) == []


def test_a_wake_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "now").symlink_to(tmp_path / "target")
    wake(tmp_path)
    assert not (tmp_path / "target").exists()
    assert wake_pending(tmp_path)
