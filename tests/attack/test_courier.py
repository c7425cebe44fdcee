"""Whoever has taken over the courier of a device writes what they like into the spool, whenever they like.

The worker is the real one, the spool a real folder; the attacker has every right that the courier has. They
can withhold, delay and replay. They cannot install, nor make the worker read what is not theirs, nor end it:
each test closes with the honest courier's next order, which is carried out.
"""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, make_rig
from tests.attack.rows import row
from tests.support.fleet import everybody

from fleetfoot_agent.spool import WorkerSide, forms, wake
from fleetfoot_agent.worker import run as worker_run
from fleetfoot_agent.worker import session as worker_session
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome

FAR = forms.MAX_NUMBER


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(tmp_path: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A device that runs 1.0.0; 1.1.0 is offered."""
    monkeypatch.setattr("fleetfoot_agent.worker.run.LOOK_SECONDS", 0.0)
    rig = make_rig(tmp_path / "device", stock)
    rig.install_first(stock["1.0.0"])
    rig.offer(stock["1.1.0"])
    return rig


def inside(rig: Rig) -> Path:
    return rig.config.spool / "in"


def slot(rig: Rig, name: str = "group.kiosk") -> Path:
    path = inside(rig) / "msg" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def untouched(rig: Rig) -> tuple[str | None, int, int, list[str]]:
    return rig.layout.read_current(), rig.machine.restarts, rig.record().floor, rig.layout.installed()


def obeys(rig: Rig, sequence: int = 100) -> None:
    """The honest courier is back: the next order is carried out."""
    goal = rig.stock["1.1.0"].goal(attempt=9)
    rig.send(rig.stock.order(sequence, everybody("r-honest", goal)))
    rig.run()
    assert rig.runs(rig.stock["1.1.0"])


def secret(rig: Rig) -> Path:
    """Something of the worker's that the courier cannot send: a signed order, so that reading it shows."""
    path = rig.config.worker_dir / "secret"
    path.write_bytes(rig.stock.order(50, everybody("r-stolen", rig.stock["1.1.0"].goal())))
    return path


def _link(path: Path, rig: Rig) -> None:
    path.symlink_to(secret(rig))


def _hard_link(path: Path, rig: Rig) -> None:
    os.link(secret(rig), path)


def _fifo(path: Path, rig: Rig) -> None:
    os.mkfifo(path)


def _socket(path: Path, rig: Rig) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _folder(path: Path, rig: Rig) -> None:
    (path / "deeper").mkdir(parents=True)


def _device(path: Path, rig: Rig) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero: it would never end


def _huge(path: Path, rig: Rig) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path, Rig], None]] = {
    "a link to what is not theirs": _link,
    "a hard link to what is not theirs": _hard_link,
    "a FIFO": _fifo,
    "a socket": _socket,
    "a folder": _folder,
    "a file of a terabyte": _huge,
}
PLACES = (
    "msg/group.kiosk/00000000000000000007",
    "link.json",
    "acked",
    "blob/{blob}",
    "blob/{blob}.json",
    "msg/heartbeat",
)


def plant(rig: Rig, make: Callable[[Path, Rig], None]) -> None:
    """Put it in the place of everything that the worker reads."""
    blob = rig.stock["1.1.0"].release.artifacts[0].sha256
    for place in PLACES:
        path = inside(rig) / place.format(blob=blob)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        make(path, rig)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_never_read(rig: Rig, kind: str) -> None:
    rig.send(rig.stock.order(40, everybody("r-1", rig.stock["1.1.0"].goal())))
    rig.served = False
    before = untouched(rig)
    plant(rig, KINDS[kind])
    rig.run()
    assert untouched(rig) == before
    # Neither the order that was not theirs to send nor anything else of it was heard or repeated.
    assert "r-stolen" not in rig.status().payload().decode() + json.dumps(rig.events())
    for place in PLACES:
        remove(inside(rig) / place.format(blob=rig.stock["1.1.0"].release.artifacts[0].sha256))
    rig.served = True
    obeys(rig)


@pytest.mark.needs("root")
def test_a_device_node_is_never_read(rig: Rig) -> None:
    before = untouched(rig)
    plant(rig, _device)
    rig.run()
    assert untouched(rig) == before
    for place in PLACES:
        remove(inside(rig) / place.format(blob=rig.stock["1.1.0"].release.artifacts[0].sha256))
    obeys(rig)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["msg", "blob", "msg/group.kiosk"])
def test_a_folder_that_is_a_link_elsewhere_is_not_entered(rig: Rig, tmp_path: Path, name: str) -> None:
    before = untouched(rig)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "group.kiosk").mkdir(parents=True)
    order = rig.stock.order(50, everybody("r-elsewhere", rig.stock["1.1.0"].goal()))
    for folder in (elsewhere, elsewhere / "group.kiosk"):
        (folder / forms.number_text(70)).write_bytes(order)
    path = inside(rig) / name
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(elsewhere)
    rig.worker().run()
    assert untouched(rig) == before
    path.unlink()
    moved.rename(path)
    obeys(rig)


def test_a_flood_of_files_and_slots_neither_hides_the_next_order_nor_takes_long(rig: Rig) -> None:
    """10^5 names: where slots stand, slots that could be meant for us among them, and in the slot itself."""
    folder = inside(rig) / "msg"
    for number in range(30_000):
        (folder / f"aaa-{number}").touch()
        (folder / f"root.{number + 10}").touch()
    for number in range(40_000):
        (slot(rig) / f"junk-{number}").touch()
    for number in range(1000):
        made = folder / f"probe.x-{number}"
        made.mkdir()
        (made / forms.number_text(1)).write_bytes(b"junk")
    before = time.process_time()
    obeys(rig)
    assert time.process_time() - before < 20
    assert rig.status().components["kiosk"].state is Lifecycle.IDLE


def test_a_flood_of_roots_that_follow_nothing_costs_one_run_a_bounded_number_of_refusals(rig: Rig) -> None:
    for step in range(2, 300):
        for arrival in range(1, 10):
            (slot(rig, f"root.{step}") / forms.number_text(arrival)).write_bytes(b"%d %d" % (step, arrival))
    rig.worker().run()
    told = [name for name in rig.told() if name.startswith("upgrade_rejected")]
    assert 0 < len(told) <= 8
    obeys(rig)


def test_a_flood_of_messages_costs_one_run_a_bounded_number_of_refusals(rig: Rig) -> None:
    for number in range(2000):
        (slot(rig) / forms.number_text(100 + number)).write_bytes(b"junk %d" % number)
    rig.worker().run()
    told = [name for name in rig.told() if name.startswith("upgrade_rejected")]
    assert 0 < len(told) <= 8
    assert untouched(rig)[0] == rig.layout.read_current()
    obeys(rig)


@pytest.mark.parametrize("arrival", [FAR, FAR - 1, 10**19, 2**63])
def test_an_arrival_of_the_far_future_does_not_shut_out_all_later_ones(rig: Rig, arrival: int) -> None:
    (slot(rig) / forms.number_text(arrival)).write_bytes(b"the last message there will ever be")
    rig.run()
    seen = forms.parse_seen((rig.config.spool / "out" / "seen.json").read_bytes())
    assert seen is not None
    assert seen["group.kiosk"] < 2**33
    obeys(rig)
    assert not (slot(rig) / forms.number_text(arrival)).exists()


@row(
    6,
    "a hostile courier repeats an old order under a new arrival, and under old ones",
    "told as upgrade_sequence_replayed; nothing installed, fetched or restarted",
    holds=[("courier", "old")],
)
def test_row_06_arrivals_that_go_backwards_are_replays_and_change_nothing(rig: Rig) -> None:
    old = next(iter(sorted(slot(rig).iterdir()))).read_bytes()
    obeys(rig)
    before = untouched(rig)
    for number in (1, 2, 3):
        (slot(rig) / forms.number_text(number)).write_bytes(old)
    highest = max(int(path.name) for path in slot(rig).iterdir())
    (slot(rig) / forms.number_text(highest + 1)).write_bytes(old)
    rig.run()
    assert untouched(rig) == before
    assert f"upgrade_rejected {Code.UPGRADE_SEQUENCE_REPLAYED}" in rig.told()


LIES: dict[str, bytes] = {
    "up for ever": b'{"up":true,"since":9007199254740991,"boot_id":"x"}',
    "no number": b'{"up":true,"since":NaN,"boot_id":"x"}',
    "deep": b'{"up":' + b"[" * 60_000,
    "digits": b"9" * 200_000,
    "bytes": bytes(range(256)) * 100,
    "empty": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_the_link_and_the_outbox_cost_at_most_events(rig: Rig, lie: str) -> None:
    for name in ("link.json", "acked"):
        (inside(rig) / name).write_bytes(LIES[lie])
    blob = rig.stock["1.1.0"].release.artifacts[0]
    (inside(rig) / "blob" / f"{blob.sha256}.json").write_bytes(LIES[lie])
    rig.run()
    (inside(rig) / "acked").write_bytes(forms.acked_to_bytes(FAR))
    rig.run()
    assert rig.events() == []
    obeys(rig)
    assert rig.status().lost_events == 0


@pytest.mark.parametrize(
    "code", ["upgrade_rolled_back", "upgrade_archive_refused", "no_code", "upgrade_no_way_back"]
)
def test_a_failure_that_is_not_the_couriers_to_tell_is_a_failed_download(rig: Rig, code: str) -> None:
    rig.send(rig.stock.order(40, everybody("r-1", rig.stock["1.1.0"].goal())))
    rig.served = False
    rig.worker().run()
    assert rig.courier.store_message(f"manifest.{rig.stock['1.1.0'].digest}", rig.stock["1.1.0"].envelope)
    rig.worker().run()
    for blob in rig.stock["1.1.0"].path.joinpath("blobs").iterdir():
        state = forms.BlobState(0, code, "http://127.0.0.1/")
        rig.courier.write_blob_state(blob.name, state)
    rig.worker().run()
    outcome = rig.record().outcomes[-1]
    assert (outcome.outcome, outcome.code) == (Outcome.FAILED, Code.UPGRADE_DOWNLOAD_FAILED)
    assert rig.record().refused == {}
    rig.served = True
    for path in (inside(rig) / "blob").iterdir():
        path.unlink()
    obeys(rig)


def order_and_fetch(rig: Rig) -> Path:
    """The device has asked for 1.1.0 and everything was brought; the artifact's blob."""
    rig.send(rig.stock.order(40, everybody("r-1", rig.stock["1.1.0"].goal())))
    rig.run_until_fetched(rig.stock["1.1.0"])
    return rig.courier.blob_path(rig.stock["1.1.0"].release.artifacts[0].sha256)


SWAPS: dict[str, Callable[[Path], object]] = {
    "other bytes of the same length": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\x55" + path.read_bytes()[-8:]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("moment", ["before", "while it is read"])
def test_a_blob_that_is_swapped_is_never_installed(
    rig: Rig, swap: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = order_and_fetch(rig)
    before = untouched(rig)
    if moment == "before":
        SWAPS[swap](blob)
    else:
        opened = WorkerSide.open_blob

        def swapped(self: WorkerSide, sha256: str, length: int) -> IO[bytes] | None:
            found = opened(self, sha256, length)
            if sha256 == blob.name and found is not None:
                SWAPS[swap](blob)  # the descriptor is open and its length was looked at
            return found

        monkeypatch.setattr(WorkerSide, "open_blob", swapped)
    rig.served = False
    rig.worker().run()
    assert untouched(rig) == before
    assert not os.listdir(rig.layout.staging)
    monkeypatch.undo()
    monkeypatch.setattr("fleetfoot_agent.worker.run.LOOK_SECONDS", 0.0)
    rig.served = True
    blob.unlink(missing_ok=True)
    obeys(rig)


def test_an_attacker_who_writes_all_the_time_installs_nothing(rig: Rig) -> None:
    """Names and bytes as they come, from another thread, while the worker runs again and again."""
    before, stop, rounds = untouched(rig), threading.Event(), 0
    forged = rig.stock.order(60, everybody("r-forged", rig.stock["1.1.0"].goal()))[:-40] + b"x" * 40
    names = [
        "msg/group.kiosk",
        "msg/own.kiosk",
        "msg/heartbeat",
        f"msg/manifest.{'0' * 64}",
        "msg/root.2",
        "blob",
    ]

    def write() -> None:
        number = 10
        while not stop.is_set():
            number += 1
            for name in names:
                path = inside(rig) / name
                path.mkdir(parents=True, exist_ok=True)
                target = path / forms.number_text(number)
                target.write_bytes((forged, b"", b"{", forged[: number % 900])[number % 4])
                if number % 5 == 0:
                    target.unlink(missing_ok=True)
                if number % 7 == 0:
                    os.mkfifo(path / forms.number_text(number + 1_000_000))
            wake(rig.config.wake_dir)

    attacker = threading.Thread(target=write)
    attacker.start()
    try:
        ends = time.monotonic() + 3
        while rounds < 3 or time.monotonic() < ends:
            worker = rig.worker()
            timer = threading.Timer(0.5, worker.stop)
            timer.start()
            assert worker.run() == 0
            timer.cancel()
            timer.join()
            rounds += 1
    finally:
        stop.set()
        attacker.join()
    assert untouched(rig) == before
    for name in names:
        remove(inside(rig) / name)
    (inside(rig) / "blob").mkdir()
    obeys(rig)


def test_wakes_without_reason_do_not_keep_the_device_busy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    worker = rig.worker()

    def rest(self: worker_run.Worker, seconds: float) -> None:
        rests.append(seconds)
        wake(rig.config.wake_dir)
        if len(rests) == 9:
            self.stop()

    monkeypatch.setattr(worker_run.Worker, "_rest", rest)
    wake(rig.config.wake_dir)
    turn = worker_session.Session.turn

    def woken(self: worker_session.Session) -> bool:
        wake(rig.config.wake_dir)
        return turn(self)

    monkeypatch.setattr(worker_session.Session, "turn", woken)
    worker.run()
    assert rests == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_wake_so_deep_that_it_cannot_be_removed_does_not_end_the_worker(rig: Rig) -> None:
    path = rig.config.wake_dir / "now"
    try:
        for _ in range(2):
            path.mkdir(parents=True)
            make_deep(path, 3000)
            assert rig.worker().run() == 0
            assert not os.path.lexists(path)
        obeys(rig)
    finally:
        subprocess.run(["rm", "-rf", str(rig.config.wake_dir)], check=True)  # our own removers give up


def test_folders_too_deep_for_anybody_are_not_entered(rig: Rig) -> None:
    try:
        for folder in (inside(rig), inside(rig) / "msg", inside(rig) / "blob", slot(rig)):
            make_deep(folder, 3000)
        obeys(rig)
    finally:
        subprocess.run(["rm", "-rf", str(rig.config.spool)], check=True)


def make_deep(folder: Path, levels: int) -> None:
    """Folders in folders, deeper than a path can say."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


STRANGE_NAMES: tuple[bytes, ...] = (
    b"\xff\xfe",
    b"0" * 20 + b"\n",
    "\u0660".encode() * 20,  # digits, but not ours
    "\u00b2".encode() * 20,
    b"-0000000000000000001",
    b"+0000000000000000001",
    b" " * 20,
    b".tmp-0000000000000000",
)
STRANGE_SLOTS: tuple[bytes, ...] = (
    b"group.kiosk\n",
    b"group.",
    b"group..",
    b"own.kiosk ",
    b"root.0",
    b"root.00002",
    b"root.9999999999",
    "root.\u0661".encode(),
    b"manifest." + b"A" * 64,
    b"manifest." + b"0" * 63,
    "group.kiosk\u202e".encode(),
    b"\xff\xff",
)


def test_names_that_are_none_of_ours_are_not_read(rig: Rig) -> None:
    rig.send(rig.stock.order(40))
    order = rig.stock.order(50, everybody("r-stolen", rig.stock["1.1.0"].goal()))
    for name in STRANGE_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(slot(rig)), name))).write_bytes(order)
    for name in STRANGE_SLOTS:
        made = Path(os.fsdecode(os.path.join(os.fsencode(inside(rig) / "msg"), name)))
        made.mkdir()
        (made / forms.number_text(1)).write_bytes(order)
    before = untouched(rig)
    rig.run()
    assert untouched(rig) == before
    assert "r-stolen" not in rig.status().payload().decode() + json.dumps(rig.events())
    obeys(rig)


@pytest.mark.parametrize("name", ["", "msg", "blob", "msg/group.kiosk", "link.json", "acked"])
@pytest.mark.parametrize("how", ["a file", "gone", "a link to itself"])
def test_a_spool_that_lacks_its_parts_or_has_others_in_their_place_is_borne(
    rig: Rig, name: str, how: str
) -> None:
    path = inside(rig) / name if name else inside(rig)
    before, aside = untouched(rig), path.with_name("aside")
    if path.exists():
        path.rename(aside)
    if how == "a file":
        path.write_bytes(b"junk")
    elif how == "a link to itself":
        path.symlink_to(path.name)
    assert rig.worker().run() == 0
    assert untouched(rig) == before
    path.unlink(missing_ok=True)
    if aside.exists():
        aside.rename(path)
    obeys(rig)


@pytest.mark.parametrize("kind", ["a folder", "a link to what is not theirs", "a FIFO", "a full folder"])
def test_a_wake_that_is_no_file_is_taken_all_the_same(rig: Rig, kind: str) -> None:
    path = rig.config.wake_dir / "now"
    if kind == "a full folder":
        (path / "in" / "it").mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](path, rig)
    assert rig.worker().run() == 0
    assert not os.path.lexists(path)
    assert list(rig.config.wake_dir.iterdir()) == []
    obeys(rig)
