"""Every cut point: the block-write log of one install and one return, replayed; judged as power cuts are.

FLEETFOOT_CUT_POINTS: how many disks to look at, `all` for every prefix with subsets (`make cutpoints`).
"""

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from tests.lab.blocklog import Entry, Recorder, disks
from tests.lab.conftest import Lab
from tests.lab.device import DIES, Device, Shop
from tests.lab.host import Host, mounted, own_mounts
from tests.lab.powercuts import judge
from tests.support.fleet import Bundle
from tests.support.waiting import until

WANTED = os.environ.get("FLEETFOOT_CUT_POINTS", "200")
SUBSETS = 2

pytestmark = [pytest.mark.needs("lab", "block-log"), pytest.mark.timeout(3600 if WANTED == "all" else 300)]


@dataclass
class Course:
    """What was recorded: the writes, and from which position on what must hold."""

    log: list[Entry]
    base: Path
    installed: int
    returned: int
    states: Counter[str] = field(default_factory=Counter)
    looked: int = 0
    problems: list[str] = field(default_factory=list)


def record(lab: Lab, *, unsynced: bool) -> Course:
    """One install of 1.1.0 and one return from a version that dies, on a logged disk."""
    lab.shop.release("1.1.0")
    lab.shop.release("1.2.0", DIES)
    host = lab.host(unsynced=unsynced)
    try:
        host.clone_disk(lab.golden)
        recorder = Recorder(host.image, host.image.parent)
        recorder.start()
        try:
            return _upgrade_and_return(host, lab.shop, recorder)
        finally:
            host.kill()
            recorder.stop()
    finally:
        host.remove()


def _upgrade_and_return(host: Host, shop: Shop, recorder: Recorder) -> Course:
    base = host.image.with_name("base.img")
    host.image.rename(base)
    host.image = recorder.export
    host.boot()
    device = Device(host, shop)
    good, bad = shop.bundles["1.1.0"], shop.bundles["1.2.0"]
    device.configure(window=3.0, settle=0.1)
    host.run("sync")
    device.order(shop.order(good), good)
    device.await_runs(good)
    at_rest(host)
    installed = recorder.position()
    device.order(shop.order(bad), bad)
    until(lambda: refuses(device, bad), "the bad version is refused")
    at_rest(host)
    returned = recorder.position()
    host.cut_power()
    return Course(recorder.stop(), base, installed, returned)


def at_rest(host: Host) -> None:
    worker = "fleetfoot-worker.service"
    until(lambda: host.show(worker, "ActiveState")["ActiveState"] == "inactive", "the worker has ended")


def refuses(device: Device, bundle: Bundle) -> bool:
    record = device.record()
    return record is not None and record.work is None and bundle.digest in record.refused


def explore(course: Course, shop: Shop, folder: Path) -> None:
    """Judge the disks that cuts could leave; on a thread of its own, for its mounts."""
    own_mounts()
    folder.mkdir()
    image, random = folder / "cut.img", Random(1)  # noqa: S311
    every = 1 if WANTED == "all" else max(1, len(course.log) * (1 + SUBSETS) // int(WANTED))
    for disk in disks(course.log, course.base, random, every=every, subsets=SUBSETS):
        disk.lay(course.base, image)
        course.looked += 1
        with mounted(image, folder / "cut") as root:
            problem = problem_of(root / "upper", shop, course, disk.position)
        if problem:
            course.problems.append(f"{disk.kind} at {disk.position} of {len(course.log)}: {problem}")


def problem_of(upper: Path, shop: Shop, course: Course, position: int) -> str:
    """What is wrong with a disk that was cut there: in itself, or for what had been confirmed by then."""
    try:
        verdict = judge(upper, shop)
    except (AssertionError, ValueError, OSError) as error:
        return str(error)[:300]
    course.states[str(verdict.record.state)] += 1
    good, bad = shop.bundles["1.1.0"], shop.bundles["1.2.0"]
    run = verdict.record.run
    if position >= course.installed and (run is None or run.digest != good.digest):
        return "the installation was confirmed and is gone"
    if position >= course.returned and bad.digest not in verdict.record.refused:
        return "the refusal was confirmed and is gone"
    return ""


def explored(lab: Lab, *, unsynced: bool) -> Course:
    course = record(lab, unsynced=unsynced)
    folder = lab.folder / f"cut-points-{unsynced}"
    thread = threading.Thread(target=explore, args=(course, lab.shop, folder))
    thread.start()
    thread.join()
    return course


def test_at_every_cut_point_there_is_a_whole_version(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    course = explored(lab, unsynced=False)
    flushes = sum(entry.flush for entry in course.log)
    told = f"{course.looked} disks of {len(course.log)} writes, {flushes} flushes: {dict(course.states)}"
    print(told)
    record_property("cutpoints", told)
    assert course.problems == []
    assert 0 < course.installed < course.returned <= len(course.log)
    assert course.looked >= (len(course.log) if WANTED == "all" else int(WANTED) // 3)
    assert {"idle", "staging", "probation"} & set(course.states)


def test_without_syncs_there_are_cut_points_without_one(lab: Lab) -> None:
    course = explored(lab, unsynced=True)
    print(f"{course.looked} disks, {len(course.problems)} of them bad, first: {course.problems[:1]}")
    assert course.problems
