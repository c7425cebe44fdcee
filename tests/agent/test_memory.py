"""What the worker never forgets: key, root, newest documents, counters, alarms, inputs that crashed it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, make_rig

from fleetfoot_agent import durable
from fleetfoot_agent.worker.memory import MAX_CRASHES, Memory, load_key, make_key
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError

INPUT, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path) -> Rig:
    return make_rig(tmp_path, stock)


@pytest.fixture
def folder(rig: Rig) -> Path:
    return rig.config.worker_dir


# -- the key


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    made = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == made
    with pytest.raises(FleetfootError) as caught:
        make_key(path)
    assert caught.value.code == "exists_already"
    assert load_key(path) == made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "device.key").chmod(mode)
    with pytest.raises(FleetfootError) as caught:
        Memory(folder)
    assert caught.value.code == "key_unsafe"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"secret": 7}', '{"secret": "zz"}', '{"secret": "00"}', "\udcff"]
)
def test_what_is_no_key_is_one_error(folder: Path, text: str) -> None:
    (folder / "device.key").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FleetfootError) as caught:
        Memory(folder)
    assert caught.value.code == "key_unreadable"


@pytest.mark.parametrize("name", ["device.key", "root.json"])
def test_a_device_that_was_never_initialised_says_what_to_do(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FleetfootError) as caught:
        Memory(folder)
    assert caught.value.code == "not_found"
    assert "fleetfoot-agent init" in caught.value.remedy


# -- counters and incarnation


def test_counters_rise_over_restarts_whatever_was_used_of_a_block(folder: Path) -> None:
    used: list[int] = []
    for amount in (1, 0, 3, 200, 64, 1):
        memory = Memory(folder)
        used += [memory.next_counter() for _ in range(amount)]
    assert used == sorted(set(used))
    assert used[0] == 1


def test_counters_rise_after_a_kill_at_any_moment(folder: Path) -> None:
    """A process that does nothing but count is killed while it counts."""
    program = (
        "import sys; from pathlib import Path; from fleetfoot_agent.worker.memory import Memory\n"
        "memory = Memory(Path(sys.argv[1]))\n"
        "while True: print(memory.next_counter(), flush=True)"
    )
    highest = 0
    for reads in (1, 63, 64, 65, 150):
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(reads)]
        os.kill(process.pid, signal.SIGKILL)
        seen += [int(line) for line in process.stdout if line.endswith(b"\n")]
        process.stdout.close()
        process.wait()
        assert seen[0] > highest
        assert seen == sorted(set(seen))
        highest = seen[-1]


def test_a_block_that_could_not_be_reserved_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(folder)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", disk_full)
        for _ in range(2):
            with pytest.raises(OSError, match="full"):
                memory.next_counter()
    first = memory.next_counter()
    assert Memory(folder).next_counter() > first


def disk_full(*_: object) -> None:
    raise OSError(28, "full")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"incarnation": 7}', '{"reserved": "x"}', '{"alarms": {}}'])
def test_a_lost_state_begins_a_new_incarnation(folder: Path, text: str) -> None:
    before = Memory(folder)
    assert Memory(folder).incarnation == before.incarnation
    (folder / "state.json").write_text(text)
    after = Memory(folder)
    assert after.incarnation != before.incarnation
    assert Memory(folder).incarnation == after.incarnation
    assert after.alarms == set()
    assert after.next_counter() == 1


# -- alarms


def test_an_alarm_stands_over_restarts_until_it_is_taken_back(folder: Path) -> None:
    memory = Memory(folder)
    assert memory.set_alarm(Code.UPGRADE_STALE, True)
    assert not memory.set_alarm(Code.UPGRADE_STALE, True)
    memory = Memory(folder)
    assert memory.alarms == {"upgrade_stale"}
    assert memory.set_alarm(Code.UPGRADE_STALE, False)
    assert not memory.set_alarm(Code.UPGRADE_STALE, False)
    assert Memory(folder).alarms == set()


# -- inputs that crash


def crash_on(folder: Path, *inputs: str) -> bool:
    """A run that survives all inputs but the last, on which it dies. Whether it was let near that one."""
    memory = Memory(folder)
    for digest in inputs[:-1]:
        assert memory.begin_input(digest)
        memory.end_input(digest)
    return memory.begin_input(inputs[-1])


@pytest.mark.parametrize("before", [[], [OTHER], [OTHER, "c" * 64]])
def test_an_input_is_let_in_three_times_whatever_is_read_before_it(folder: Path, before: list[str]) -> None:
    let_in = [crash_on(folder, *before, INPUT) for _ in range(MAX_CRASHES + 2)]
    assert let_in == [True, True, True, False, False]
    assert crash_on(folder, OTHER)  # only the one that crashed counts


def test_two_inputs_that_crash_are_both_found_out(folder: Path) -> None:
    for _ in range(MAX_CRASHES):
        assert crash_on(folder, INPUT)
    for _ in range(MAX_CRASHES):
        memory = Memory(folder)
        assert not memory.begin_input(INPUT)
        assert memory.begin_input(OTHER)
    memory = Memory(folder)
    assert not memory.begin_input(INPUT)
    assert not memory.begin_input(OTHER)
    memory.end_inputs()
    assert Memory(folder).begin_input(INPUT)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"' + "a" * 64 + '": "x"}'])
def test_a_torn_note_of_crashes_is_no_crash(folder: Path, text: str) -> None:
    (folder / "doing.json").write_text(text)
    assert Memory(folder).begin_input(INPUT)


# -- documents and the time


def test_a_document_that_no_longer_verifies_is_gone(folder: Path, stock: Stock) -> None:
    memory = Memory(folder)
    memory.store("group.kiosk", stock.order(5))
    found = memory.desired("group", "kiosk")
    assert found is not None
    assert found[0].sequence == 5
    memory.store("group.kiosk", stock.signed(PayloadType.DESIRED, found[0].payload(), key="alice"))
    assert memory.desired("group", "kiosk") is None
    for junk in (b"", b"{}", b"\xff", b"[" * 1000):
        memory.store("group.kiosk", junk)
        memory.store("heartbeat", junk)
        assert memory.desired("group", "kiosk") is None
        assert memory.heartbeat() is None
    memory.forget("group.kiosk")
    assert memory.envelope("group.kiosk") is None


def test_a_release_is_kept_under_its_own_digest_only(folder: Path, stock: Stock) -> None:
    memory, bundle, other = Memory(folder), stock["1.0.0"], stock["1.1.0"]
    memory.store(f"manifest.{bundle.digest}", bundle.envelope)
    memory.store(f"manifest.{other.digest}", bundle.envelope)
    found = memory.release(bundle.digest)
    assert found == (bundle.release, bundle.envelope)
    assert memory.release(other.digest) is None
    assert memory.release("0" * 64) is None
    assert sorted(memory.manifests()) == sorted([bundle.digest, other.digest])


def test_the_time_floor_is_the_newest_signed_time(folder: Path, stock: Stock) -> None:
    memory, now = Memory(folder), int(time.time())
    assert memory.time_floor() == 0
    memory.store("group.kiosk", stock.order(1, issued=times.to_text(now - 500)))
    memory.store("own.kiosk", stock.order(1, device="dev-001", issued=times.to_text(now - 300)))
    memory.store(f"manifest.{stock['1.0.0'].digest}", stock["1.0.0"].envelope)
    memory.store("junk", b"{")
    assert memory.time_floor() == now - 300
    memory.store("heartbeat", stock.heartbeat(now - 100, now))
    assert memory.time_floor() == now - 100
