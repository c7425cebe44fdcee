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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fleetfoot_client import bundle as bundles
from fleetfoot_client import publishing
from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import Session
from fleetfoot_protocol.admission import wave_sizes
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState, Terminal
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Device, Pace, ProcessDevice, free_ports, set_up
from fleetfoot_sim.interrupts import Interrupts
from fleetfoot_sim.processes import LineProcess
from fleetfoot_sim.scene import BAD, FIRST, GOOD, OPERATOR, Scene

GROUPS = ("kitchens", "lobbies")
WAVES = ("10%", "50%", "100%")
#: Devices that are processes of their own; the others share `HOSTS` processes.
PROCESSES = 5
HOSTS = 2
ENROLL_AT_ONCE = 100

T = TypeVar("T")


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
        self._stack = ExitStack()
        self._hosts: list[LineProcess] = []
        self._own: list[ProcessDevice] = []

    # -- the frame

    def run(self) -> dict[str, Any]:
        """Play the whole story in a folder of its own; leaves nothing behind but what `keep` asks for.

        A demo that fails leaves its folder with the logs, and its error names it.
        """
        try:
            return self._played(self._started_with_it(self._make_folder, self._remove))
        except KeyboardInterrupt:
            with suppress(OSError):  # nobody may be there to read it
                self._say("interrupted: ending everything that was started")
            raise
        finally:
            with self._interrupts.held():
                self._stack.close()

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

    def _started_with_it(self, start: Callable[[], T], end: Callable[[T], object]) -> T:
        """Start something that ends with the demo, at whatever moment somebody interrupts it."""
        with self._interrupts.held():
            started = start()
            self._stack.callback(end, started)
        return started

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
        broker = self._start_manager(scene)
        port = broker.rpartition(":")[2]
        self._say("setting up devices", f"watch along: mosquitto_sub -p {port} -t 'ff/v1/groups/#' -v")
        devices = self._set_up(scene, broker)
        self._say(f"{len(devices)} devices: putting {FIRST} on by hand, verified")
        self._start_devices(scene, devices)
        profile = Profile("demo", f"mqtt://{broker}", OPERATOR, scene.operator_key, scene.root)
        with Session(profile) as session:
            self._enroll(session, devices)
            self._watch(scene, broker, devices)
            self._install_first(scene)
            self._connect()
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

    # -- the cast

    def _line_process(
        self, name: str, argv: list[str], log: Path, *, on_line: Callable[[str], None] | None = None
    ) -> LineProcess:
        return self._started_with_it(
            partial(LineProcess, name, argv, log, on_line=on_line), LineProcess.close
        )

    def _start_manager(self, scene: Scene) -> str:
        broken = self.options.sabotage == "breaker"
        argv = ["-m", "fleetfoot_sim.sabotage", "manager"] if broken else [*_FLEETFOOT, "manager"]
        listening = ["--listen", "127.0.0.1:0", "--artifacts", "127.0.0.1:0", "--json"]
        command = ["run", "--dir", str(scene.manager), "--root", str(scene.root), *listening]
        manager = self._line_process("manager", [*argv, *command], scene.logs / "manager.log")
        return str(manager.answer(30)["broker"])

    def _set_up(self, scene: Scene, broker: str) -> list[Device]:
        count, speed = self.options.devices, self.options.speed
        pace = Pace(window=max(0.5, 2.0 / speed), settle=0.5 / speed, restart_delay=0.1)
        root = scene.root.read_bytes()
        devices = []
        for number, port in enumerate(free_ports(count), start=1):
            name = f"dev-{number:03d}"
            group = GROUPS[number % len(GROUPS)]
            folder = scene.folder / "devices" / name
            device = set_up(folder, name, group, f"mqtt://{broker}", root, port, pace=pace)
            devices.append(device)
        self.view.members = [(d.id, d.group) for d in devices]
        return devices

    def _start_devices(self, scene: Scene, devices: list[Device]) -> None:
        own = 0 if self.options.sabotage else min(PROCESSES, len(devices))
        for device in devices[:own]:
            process = self._started_with_it(partial(ProcessDevice, device), ProcessDevice.power_off)
            with self._interrupts.held():
                process.power_on()
            self._own.append(process)
        shared = devices[own:]
        module = "fleetfoot_sim.sabotage" if self.options.sabotage == "probation" else "fleetfoot_sim.host"
        for number in range(min(HOSTS, len(shared))):
            spec = scene.folder / f"host-{number}.json"
            spec.write_text(json.dumps({"configs": [str(d.config.path) for d in shared[number::HOSTS]]}))
            argv = ["-m", module, *(["host"] if module.endswith("sabotage") else []), str(spec)]
            self._hosts.append(self._line_process(f"host-{number}", argv, scene.logs / f"host-{number}.log"))
        for host in self._hosts:
            host.done(30)

    def _install_first(self, scene: Scene) -> None:
        for host in self._hosts:
            host.send(f"install {scene.bundle(FIRST)}")
        statuses: dict[str, int] = {}

        def install(device: ProcessDevice) -> None:
            statuses[device.device.id] = device.install(scene.bundle(FIRST))

        threads = [threading.Thread(target=install, args=(device,)) for device in self._own]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for host in self._hosts:
            host.done(90)
        if failed := [name for name, status in statuses.items() if status != 0]:
            raise FleetfootError("io_error", f"{FIRST} could not be put on {', '.join(failed)}")

    def _connect(self) -> None:
        for host in self._hosts:
            host.send("connect")
        for device in self._own:
            with self._interrupts.held():
                device.connect()
        for host in self._hosts:
            host.done(30)

    def _enroll(self, session: Session, devices: list[Device]) -> None:
        rows = [{"id": d.id, "group": d.group, "key": d.public, "labels": {}} for d in devices]
        for start in range(0, len(rows), ENROLL_AT_ONCE):
            batch = rows[start : start + ENROLL_AT_ONCE]
            session.request("device.enroll", arguments={"devices": batch}, timeout=30)

    def _watch(self, scene: Scene, broker: str, devices: list[Device]) -> None:
        host, _, port = broker.rpartition(":")
        spec = scene.folder / "watcher.json"
        members = [{"id": d.id, "group": d.group, "key": d.public} for d in devices]
        facts = {"host": host, "port": int(port), "root": str(scene.root), "component": kiosk.COMPONENT}
        spec.write_text(json.dumps({**facts, "good": GOOD, "bad": BAD, "members": members}))
        argv = ["-m", "fleetfoot_sim.watcher", str(spec)]
        self._line_process("watcher", argv, scene.logs / "watcher.log", on_line=self._seen)


_FLEETFOOT = ["-c", "import sys; from fleetfoot_client.cli import main; sys.exit(main())"]


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
