"""docs/runbook.md, walked: every command of the page, in its order, against real devices, manager and broker.

The test takes the commands from the page, one after the other, says with what each has to end, and plays what
the page tells of beside them: a release that is bad, a place that is, a device that is gone. Changed are only
the id of the rollout, which the page cannot know, and the hour for which waves settle.
"""

import io
import re
import shlex
from collections import deque
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_client.cli import main
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.codes import Code
from fleetfoot_sim import kiosk
from fleetfoot_sim.scene import OPERATOR

#: Some sixty commands and fifteen installations.
pytestmark = pytest.mark.timeout(400)

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
ROLLOUT = "r-4k2m9x0a7c"
OVENS = ("oven-7", "oven-1", "oven-2", "oven-3")
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"^ {4,}(fleetfoot .+)$|`(fleetfoot [^`]+)`", re.MULTILINE)


def commands() -> dict[str, deque[list[str]]]:
    """The commands of each section, in words. One that is only named, without what it is about, is prose."""
    _, *parts = _SECTION.split(PAGE.read_text("utf-8"))
    found: dict[str, deque[list[str]]] = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        every = [(shlex.split(one or other), bool(one)) for one, other in _COMMAND.findall(text)]
        found[title] = deque(words for words, apart in every if apart or len(words) > 3)
    return found


class Walk:
    """Somebody who goes through the page in the folder of a town."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.left = commands()
        self.section = ""
        #: The rollout that the page means by its id.
        self.rollout = ""

    def at(self, section: str) -> None:
        """Begin a section: the one before has nothing left."""
        assert not self.left.get(self.section), self.left[self.section]
        self.section = section

    def next(self, *begins: str, ends: int = Exit.OK) -> str:
        """Run the next command of the page, which begins so; what it says."""
        words = self.left[self.section].popleft()
        assert words[1 : len(begins) + 1] == list(begins), f"the page says {words}"
        return self.run(*words[1:], ends=ends)

    def choose(self, *begins: str) -> str:
        """Run one of the commands of which the page says to take one."""
        (words,) = [one for one in self.left[self.section] if one[1 : len(begins) + 1] == list(begins)]
        self.left[self.section].remove(words)
        return self.run(*words[1:])

    def run(self, *words: str, ends: int = Exit.OK) -> str:
        """Run a command, with the rollout that is meant."""
        line = ["1s" if word == "1h" else word.replace(ROLLOUT, self.rollout) for word in words]
        said, told = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(told):
            status = main(line)
        assert status == ends, (line, status, said.getvalue(), told.getvalue())
        if words[:2] == ("rollout", "start"):
            found = re.search(r"r-[a-z0-9]+", said.getvalue())
            assert found is not None
            self.rollout = found[0]
        return said.getvalue()

    # -- what happens beside the page

    def start(self, version: str, *options: str) -> None:
        """A blessed release goes out, the first two ovens before all others."""
        self.run("release", "publish", str(self.town.scene.bundle(version)), "--bless")
        canaries = [word for name in OVENS[:2] for word in ("--canary", name)]
        wish = ["--component", "kiosk", "--version", version, "--group", "ovens"]
        self.run("rollout", "start", *wish, *canaries, *options)
        self.run("rollout", "approve", self.rollout)

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.town.fleetfoot("rollout", "show", self.rollout)["counts"]
        return counts

    def await_counts(self, **expected: int) -> None:
        until(lambda: self.counts() == expected, f"the rollout counts {expected}", seconds=60)


class Place:
    """Where an oven stands: what is wrong there keeps a version from starting."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._folder = town.folder / "wrong"
        self._folder.mkdir()

    def release(self, *versions: str) -> None:
        """Build and sign versions that start only where nothing is wrong."""
        for version in versions:
            tree = kiosk.write_tree(self._town.folder / "apps" / version, version)
            program = tree / kiosk.ENTRYPOINT
            before, line, after = program.read_text().partition(f'VERSION = "{version}"\n')
            wrong = f"if os.path.exists({str(self._folder / version)!r} + '-' + os.environ['PORT']):"
            program.write_text(f"{before}{line}{wrong}\n    raise SystemExit('it is cold here')\n{after}")
            self._town.scene.release(version, tree)

    def goes_wrong(self, version: str, *names: str) -> None:
        for name in names:
            self._file(version, name).touch()

    def is_mended(self, version: str, *names: str) -> None:
        for name in names:
            self._file(version, name).unlink()

    def _file(self, version: str, name: str) -> Path:
        check = self._town.devices[name].config.components[kiosk.COMPONENT].checks[0]
        return self._folder / f"{version}-{urlsplit(check.url).port}"


@pytest.fixture
def walk(town: Town, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """Four ovens that run 1.0.0, in a group whose rollouts need approval."""
    monkeypatch.chdir(town.folder)
    monkeypatch.setenv("FLEETFOOT_BROKER", f"mqtt://127.0.0.1:{town.broker_port}")
    monkeypatch.setenv("FLEETFOOT_OPERATOR", OPERATOR)
    monkeypatch.setenv("FLEETFOOT_KEY", str(town.scene.operator_key))
    monkeypatch.setenv("FLEETFOOT_ROOT", str(town.scene.root))
    monkeypatch.setenv("FLEETFOOT_CONFIG_DIR", str(town.folder / "profile"))
    town.add(*OVENS, group="ovens")
    town.publish("1.0.0")
    town.fleetfoot("group", "policy", "ovens", "--approval", "always")
    return Walk(town)


def test_the_runbook_leads_from_a_canary_to_live_through_trips_and_back(walk: Walk) -> None:
    place = Place(walk.town)
    place.release("1.2.1", "1.3.0", "1.3.1", "1.4.0", "1.4.1")
    canary_to_live(walk)
    trips(walk, place)
    playbook(walk)
    out_already(walk)
    silent(walk)
    walk.at("The manager itself")
    assert "running (process" in walk.next("manager", "status")
    assert not any(walk.left.values()), walk.left


def canary_to_live(walk: Walk) -> None:
    town = walk.town
    walk.at("Canary to live")
    walk.next("release", "verify")
    walk.next("release", "publish")
    assert "released, completed" in walk.next("device", "upgrade")
    assert "upgrade 1.1.0: released, completed" in walk.next("device", "show")
    planned = walk.next("rollout", "plan")
    assert "already there" in planned
    assert "refuse" not in planned
    assert "awaits approval" in walk.next("rollout", "start")
    walk.next("rollout", "approve")
    assert "bless" in walk.next("rollout", "watch", ends=Exit.STOPPED)
    town.await_versions({"oven-7": "1.1.0"})
    walk.next("release", "promote")
    walk.next("rollout", "watch")
    assert walk.next("group", "drift") == "nobody in ovens drifts\n"
    walk.next("rollout", "report")
    assert (town.folder / "reports" / walk.rollout / "report.html").exists()
    (row,) = town.fleetfoot("release", "list")["releases"][:1]
    assert (row["version"], row["life"]) == ("1.1.0", "live")


def trips(walk: Walk, place: Place) -> None:
    walk.at("A trip")
    place.goes_wrong("1.2.1", *OVENS[:2])
    walk.start("1.2.1", "--waves", "2,4", "--settle", "0s")
    walk.run("rollout", "watch", walk.rollout, ends=Exit.STOPPED)
    walk.await_counts(rolled_back=2, pending=2)
    assert Code.UPGRADE_BOOT_FAILED in walk.next("rollout", "show")
    assert Code.UPGRADE_BOOT_FAILED in walk.next("device", "show")
    place.is_mended("1.2.1", *OVENS[:2])
    place.goes_wrong("1.2.1", "oven-2")
    walk.choose("rollout", "retry")
    walk.await_counts(healthy=3, rolled_back=1)
    walk.town.await_state(walk.rollout, "tripped")
    walk.choose("rollout", "decide", ROLLOUT, "continue")
    walk.town.await_state(walk.rollout, "completed")
    for version, decision in (("1.3.0", "abort"), ("1.3.1", "rollback")):
        place.goes_wrong(version, *OVENS[:2])
        walk.start(version, "--waves", "2,4", "--settle", "0s")
        walk.run("rollout", "watch", walk.rollout, ends=Exit.STOPPED)
        walk.await_counts(rolled_back=2, pending=2)
        walk.choose("rollout", "decide", ROLLOUT, decision)
        walk.town.await_state(walk.rollout, "aborted" if decision == "abort" else "rolled_back")
    walk.next("rollout", "note")
    assert "ovens need a warm start" in walk.run(
        "rollout", "plan", "--component", "kiosk", "--version", "1.3.1", "--group", "ovens"
    )


def playbook(walk: Walk) -> None:
    town = walk.town
    walk.at("The recovery playbook")
    walk.start("1.4.0", "--waves", "2,4", "--settle", "2h")
    town.await_state(walk.rollout, "settling")
    assert walk.rollout in walk.next("rollout", "list")
    assert "paused" in walk.next("rollout", "pause")
    walk.next("rollout", "pause", "--all")
    assert "ENGINE PAUSED by alice" in walk.run("manager", "status", "--dir", "manager")
    walk.next("rollout", "resume", "--all")
    assert "1.4.0 2" in walk.next("group", "show")
    assert "oven-2" in walk.next("group", "drift")
    decided = walk.next("audit", "list")
    assert "group.upgrade.paused" in decided
    assert "device.enroll" not in decided
    walk.choose("rollout", "resume")
    walk.run("rollout", "pause", walk.rollout)
    walk.next("rollout", "decide", ROLLOUT, "rollback")
    town.await_state(walk.rollout, "rolled_back")
    town.await_versions({"oven-7": "1.2.1", "oven-1": "1.2.1"})
    walk.next("release", "publish")
    assert "released, completed" in walk.next("device", "upgrade")
    walk.next("rollout", "start")
    walk.next("rollout", "approve")
    walk.next("release", "promote")
    walk.next("rollout", "watch")
    town.await_versions(dict.fromkeys(OVENS, "1.4.1"))
    assert walk.next("group", "drift") == "nobody in ovens drifts\n"
    walk.next("rollout", "note")
    assert "1.4.1" in walk.next("rollout", "history")
    (group,) = town.fleetfoot("group", "list")["groups"]
    assert group["components"]["kiosk"]["baseline"] == "1.4.1"


def out_already(walk: Walk) -> None:
    walk.at("A bad release that is out already")
    walk.next("release", "recall")
    before = {"oven-7": "1.2.1", "oven-1": "1.2.1", "oven-2": "1.1.0", "oven-3": "1.2.1"}
    walk.town.await_versions(before)
    walk.next("release", "lift")
    walk.town.await_versions(before)


def silent(walk: Walk) -> None:
    town = walk.town
    walk.at("Silent devices")
    town.hosted["oven-7"].power_off()
    town.await_presence("oven-7", "offline")
    walk.next("group", "drift")
    walk.next("device", "forget")
    assert {row["id"] for row in town.fleetfoot("device", "list")["devices"]} == set(OVENS[1:])
