"""The main job, seen from outside: a fleet upgrades itself, and a bad release comes back by itself.

Everything is real but the purpose of the kiosk: keys, signatures, broker, manager, agents, downloads,
restarts, probation, rollback. The figures are counted by a process of its own that only subscribes.
"""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fleetfoot_client import bundle as bundles
from fleetfoot_client import publishing
from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import Session
from fleetfoot_protocol.admission import wave_sizes
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState, Terminal
from fleetfoot_sim import kiosk
from fleetfoot_sim.cast import GROUPS, Cast
from fleetfoot_sim.interrupts import Interrupts
from fleetfoot_sim.scene import BAD, FIRST, GOOD, OPERATOR, Scene

WAVES = ("10%", "50%", "100%")


@dataclass(frozen=True, slots=True)
class Options:
    """devices: how many; keep: folder that stays; speed: divides every waiting time; sabotage: for tests.

    asks: whether a person takes the decision on the bad release.
    """

    devices: int = 30
    keep: Path | None = None
    speed: float = 1.0
    sabotage: str | None = None
    asks: bool = False


class Audience(Protocol):
    """Who looks with a console of their own."""

    def ready(self, profile: Profile) -> None:
        """The fleet is up; this is the way to it."""
        ...

    def ended(self, result: dict[str, Any]) -> None:
        """The story is told; returns when they have seen enough."""
        ...


#: States of a rollout in which nothing is to be decided any more.
_DECIDED = ("rolled_back", "aborted", "completed", "canceled", "expired", "superseded")


@dataclass(slots=True)
class View:
    """What a display draws: the step, the story with its seconds, the watcher's last snapshot."""

    step: str = "starting"
    story: list[tuple[float, str]] = field(default_factory=list)
    snapshot: dict[str, Any] = field(default_factory=dict)
    members: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


def _state_is(rollout: str, *states: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a snapshot shows the rollout in one of the states."""
    return lambda snapshot: snapshot["rollouts"].get(rollout, {}).get("state") in states


def _is_back(rollout: str) -> Callable[[dict[str, Any]], bool]:
    """Whether nobody is at work on a rollout any more, and all who had activated its release went back."""

    def is_back(snapshot: dict[str, Any]) -> bool:
        bad, counts = snapshot["result"]["bad"], snapshot["rollouts"][rollout]["counts"]
        return not counts.get(Terminal.ACTIVE) and bad["started"] == bad["rolled_back"]

    return is_back


class Demo:
    """One demo. `run` returns the figures; `show` is called whenever there is something new to see."""

    def __init__(
        self,
        options: Options,
        show: Callable[[View], None],
        interrupts: Interrupts,
        audience: Audience | None = None,
    ) -> None:
        self.options = options
        self._audience = audience
        self.view = View()
        self._show = show
        self._interrupts = interrupts
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._kept = options.keep is not None
        self._cast = Cast(interrupts, speed=options.speed, sabotage=options.sabotage)

    # -- the frame

    def run(self) -> dict[str, Any]:
        """Play the whole story in a folder of its own; leaves nothing behind but what `keep` asks for.

        A demo that fails leaves its folder with the logs, and its error names it.
        """
        try:
            return self._played(self._cast.started_with_it(self._make_folder, self._remove))
        except KeyboardInterrupt:
            with suppress(OSError):  # nobody may be there to read it
                self._say("interrupted: ending everything that was started")
            raise
        finally:
            self._cast.close()

    def _played(self, folder: Path) -> dict[str, Any]:
        try:
            self._play(Scene(folder))
        except FleetfootError as error:
            self._kept = True
            remedy = f"read the logs in {folder / 'logs'}; {error.remedy}"
            raise FleetfootError(error.code, error.message, remedy=remedy) from error
        result = self._figures()
        self._say("done; ending everything that was started")
        return result

    def _figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = dict(self.view.snapshot["result"])
        return figures | {"seconds": round(time.monotonic() - self._began, 1)}

    def _make_folder(self) -> Path:
        if self.options.keep is None:
            return Path(tempfile.mkdtemp(prefix="fleetfoot-demo-"))
        folder = self.options.keep.absolute()
        if folder.exists() and any(folder.iterdir()):
            raise FleetfootError("exists_already", f"{folder} is not empty", remedy="name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        return folder

    def _remove(self, folder: Path) -> None:
        if not self._kept:
            shutil.rmtree(folder, ignore_errors=True)

    def _say(self, step: str, text: str = "") -> None:
        with self._interrupts.held(), self._changed:  # a display that is broken off forgets what it has told
            self.view.step = step
            self.view.seconds = time.monotonic() - self._began
            if text:
                self.view.story.append((self.view.seconds, text))
            self._show(self.view)

    def _seen(self, line: str) -> None:
        snapshot = json.loads(line)
        with self._changed:
            self.view.snapshot = snapshot
            self.view.seconds = time.monotonic() - self._began
            self._show(self.view)
            self._changed.notify_all()

    def _await(self, what: str, seconds: float | None, look: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the watcher sees it."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: bool(self.view.snapshot) and look(self.view.snapshot), seconds
            ):
                raise FleetfootError("timeout", f"{what}: not seen within {seconds or 0:g} s")

    # -- the story

    def _play(self, scene: Scene) -> None:
        self._say("keys, trust root and three signed releases")
        scene.prepare()
        self._say("broker and manager")
        cast = self._cast
        broker = cast.start_manager(scene)
        port = broker.rpartition(":")[2]
        self._say("setting up devices", f"watch along: mosquitto_sub -p {port} -t 'ff/v1/groups/#' -v")
        devices = cast.set_up(scene, broker, self.options.devices)
        self.view.members = [(d.id, d.group) for d in devices]
        self._say(f"{len(devices)} devices: putting {FIRST} on by hand, verified")
        cast.start_devices(scene, devices)
        profile = Profile("demo", f"mqtt://{broker}", OPERATOR, scene.operator_key, scene.root)
        with Session(profile) as session:
            cast.enroll(session, devices)
            cast.watch(scene, broker, devices, self._seen)
            cast.install_first(scene)
            cast.connect()
            total = len(devices)
            self._await(f"{total} devices run {FIRST}", 60, lambda s: s["result"]["final"] == {FIRST: total})
            self._say("the fleet is up", f"{total} devices in {len(GROUPS)} groups run kiosk {FIRST}")
            if self._audience is not None:
                self._audience.ready(profile)
            self._good(session, scene, total)
            self._bad(session, scene, total)
        if self._audience is not None:
            self._audience.ended(self._figures())

    def _publish(self, session: Session, scene: Scene, version: str) -> None:
        bundle = bundles.load(scene.bundle(version))
        publishing.publish(session, bundle, lambda *_: None, timeout=30, bless=True)

    def _rollout(self, session: Session, version: str, total: int) -> str:
        arguments = {
            "component": kiosk.COMPONENT,
            "version": version,
            "groups": list(GROUPS),
            "waves": list(WAVES),
            "settle": max(0, round(1 / self.options.speed)),
            "device_timeout": 60,
            "breaker": 0 if self.options.sabotage == "breaker" else 1,
        }
        started = session.request("rollout.start", arguments=arguments, timeout=30)
        # By default more than a hundred devices need somebody's approval.
        if started["state"] == RolloutState.AWAITING_APPROVAL:
            session.request("rollout.approve", arguments={"rollout": started["rollout"]}, timeout=30)
        waves = ", ".join(str(n) for n in started["plan"]["waves"])
        self._say(f"rollout of {version}", f"rollout of {version} started: waves of {waves}")
        return str(started["rollout"])

    def _good(self, session: Session, scene: Scene, total: int) -> None:
        self._publish(session, scene, GOOD)
        rollout = self._rollout(session, GOOD, total)
        self._await(f"{GOOD} everywhere", 90, _state_is(rollout, "completed"))
        self._await(f"{total} devices run {GOOD}", 30, lambda s: s["result"]["final"] == {GOOD: total})
        waves = ", ".join(str(n) for n in self.view.snapshot["result"]["good"]["waves"])
        self._say("the good release is everywhere", f"{GOOD} went out in waves of {waves} and is healthy")

    def _bad(self, session: Session, scene: Scene, total: int) -> None:
        self._publish(session, scene, BAD)
        rollout = self._rollout(session, BAD, total)
        self._await(f"{BAD} trips", 90, _state_is(rollout, "tripped", "completed"))
        if self.view.snapshot["rollouts"][rollout]["state"] == "completed":
            self._say("the bad release was not stopped", f"{BAD} went out to everybody: something is broken")
            return  # the figures say what is not true
        self._await(f"whoever began {BAD} is back", 60, _is_back(rollout))
        bad = self.view.snapshot["result"]["bad"]
        came_back = (
            "1 canary, which came back by itself"
            if bad["started"] == 1
            else f"{bad['started']} canaries, which came back by themselves"
        )
        told = f"{BAD} died on {came_back}; {bad['untouched']} never began"
        self._say("the bad release is stopped", told)
        if self.options.asks:
            decided = self._asked(rollout)
            if decided != "rolled_back":
                self._say("decided otherwise", f"you decided otherwise: {BAD} is {decided}")
                return
        else:
            self._decide(session, rollout)
        self._await(f"{total} devices run {GOOD}", 60, lambda s: s["result"]["final"] == {GOOD: total})
        self._say("rolled back", f"rolled back: the whole fleet runs {GOOD}")

    def _asked(self, rollout: str) -> str:
        """Wait for the person's decision, as long as they like; how the rollout ended."""
        self._say("waiting for your decision", "the decision is yours: 2, enter, then b rolls it back")
        self._await("a decision", None, _state_is(rollout, *_DECIDED))
        return str(self.view.snapshot["rollouts"][rollout]["state"])

    def _decide(self, session: Session, rollout: str) -> None:
        row = session.request("rollout.show", arguments={"rollout": rollout}, timeout=30)
        decision = {"rollout": rollout, "decision": "rollback"}
        session.request("rollout.decide", arguments=decision, revision=row["revision"], timeout=30)
        self._await("the rollback is done", 60, _state_is(rollout, "rolled_back"))


def expected(devices: int) -> dict[str, Any]:
    """The figures that a demo of so many devices must show; `bad.started` may be from 1 to the first wave."""
    waves = list(wave_sizes(WAVES, devices))
    return {"devices": devices, "completed": devices, "waves": waves, "final": {GOOD: devices}}


def is_true(result: dict[str, Any], devices: int) -> list[str]:
    """What of the promised story the figures contradict; empty if it is all true."""
    want, good, bad = expected(devices), result["good"], result["bad"]
    canaries = want["waves"][0]
    checks = {
        f"all {devices} devices were counted": result["devices"] == devices,
        f"all devices completed {GOOD}": good["completed"] == devices,
        f"the waves were {want['waves']}": good["waves"] == want["waves"],
        f"from 1 to {canaries} canaries began {BAD}": 1 <= bad["started"] <= canaries,
        "every device that began came back": bad["rolled_back"] == bad["started"],
        "the rollout tripped": bad["tripped"] is True,
        "nobody else began it": bad["untouched"] == devices - bad["started"],
        f"the whole fleet runs {GOOD}": result["final"] == want["final"],
    }
    return [what for what, held in checks.items() if not held]
