"""A device without processes: the real worker and spool, an in-memory init system that runs the real guard.

`Machine` stands for systemd or the supervisor, `Carrier` for courier, broker and artifact server. Nothing in
here waits: a version's behaviour is a word, and its window is one look long unless a test says otherwise.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, GROUP, Stock, blob_of
from tests.support.fleet import Bundle, everybody

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable, saved
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import ENTRYPOINT_SUFFIX, Layout
from fleetfoot_agent.seam import UnitState, guard_path
from fleetfoot_agent.spool import CourierSide
from fleetfoot_agent.worker import extract, memory
from fleetfoot_agent.worker.record import Record
from fleetfoot_agent.worker.run import Worker
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.resolve import Device as Facts
from fleetfoot_protocol.resolve import Plan, resolve
from fleetfoot_protocol.states import Lifecycle, Verdict
from fleetfoot_protocol.tree import tree_sha256


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between looks; and no syncing, which a killed process does not need and takes longest."""
    for module in ("run", "by_hand"):
        monkeypatch.setattr(f"fleetfoot_agent.worker.{module}.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("os.fsync", lambda fd: None)


class Crash(BaseException):
    """The worker is killed here: nothing catches it."""


def raiser(error: BaseException) -> Callable[..., Any]:
    """A function that takes anything and raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class Machine:
    """Keeps one component running, in memory; its word for a version says how that one behaves.

    good: runs and is ready. dies: ends right after every start, and is started again each time somebody
    looks. unready: runs, but is never ready. Every start is preceded by the real guard.
    """

    def __init__(self, layout: Layout, behaviour: dict[str, str]) -> None:
        self.layout = layout
        self.behaviour = behaviour
        self.restarts = 0
        self.unreachable = False
        self.before_restart: Callable[[], None] = lambda: None
        self._target: str | None = None
        self._pid = 0
        self._up = False

    def word(self, target: str | None) -> str:
        version = (target or "").removeprefix("versions/").rpartition("-")[0]
        return self.behaviour.get(version, "good")

    def boot(self) -> None:
        """A start that nobody asked for: after power came back, or after a death."""
        if self.layout.folder.is_dir() and os.path.lexists(self.layout.trial):
            subprocess.run(
                ["/bin/sh", str(guard_path()), str(self.layout.folder)], check=True, capture_output=True
            )
        self._up = os.path.lexists(self.layout.current)
        self._target = os.readlink(self.layout.current) if self._up else None
        if self._up:
            saved.put_back(self.layout.folder, self._target)
            self._pid += 1
            self._up = self.word(self._target) != "dies"

    def restart(self) -> None:
        if self.unreachable:
            raise FleetfootError("supervisor_failed", "nobody answers")
        self.before_restart()
        self.restarts += 1
        self.boot()

    def demand(self) -> None:
        self.state()

    def quiesce(self) -> None:
        self._up, self._target = False, None

    def state(self) -> UnitState:
        if self.unreachable:
            raise FleetfootError("supervisor_failed", "nobody answers")
        found = UnitState(
            active=self._up,
            ready=self._up and self.word(self._target) != "unready",
            pid=self._pid if self._up else None,
            restarts=0,
            since=0.0,
            target=self._target,
        )
        if not self._up and self._target is not None:
            self.boot()
        return found


@dataclass
class Rig:
    """One device in `folder`, what carries for it, and what keeps its components running."""

    folder: Path
    stock: Stock
    config: AgentConfig
    behaviour: dict[str, str] = field(default_factory=dict)
    served: bool = True

    def __post_init__(self) -> None:
        self.courier = CourierSide(self.config.spool)
        self.machines = {
            name: Machine(Layout(self.config.install_root, name), self.behaviour)
            for name in self.config.components
        }
        self.bundles: dict[str, Bundle] = {}
        self.asked_for: set[str] = set()

    def obey(self, **settings: Any) -> None:
        """Give the device another local policy, as its owner would with an editor."""
        self.config = configure(self.folder, **settings)

    @property
    def machine(self) -> Machine:
        return self.machines["kiosk"]

    @property
    def layout(self) -> Layout:
        return self.machine.layout

    # -- what comes in

    def offer(self, *bundles: Bundle) -> None:
        """Let the carrier have these releases."""
        self.bundles |= {bundle.digest: bundle for bundle in bundles}

    def send(self, payload: bytes, slot: str = "group.kiosk") -> None:
        assert self.courier.store_message(slot, payload)

    def carry(self) -> bool:
        """Bring what the worker wants. Whether there was anything to bring."""
        want = self.courier.read_want()
        if want is None or not self.served:
            return False
        self.asked_for |= {blob.sha256 for blob in want.blobs}
        self.courier.drop_seen()
        kept = {f"manifest.{manifest.digest}" for manifest in want.manifests}
        self.courier.keep_slots(lambda slot: not slot.startswith("manifest.") or slot in kept)
        self.courier.keep_blobs({blob.sha256 for blob in want.blobs}, want.keep)
        blobs = {p.name: p for b in self.bundles.values() for p in (b.path / "blobs").iterdir()}
        brought = False
        for manifest in want.manifests:
            if bundle := self.bundles.get(manifest.digest):
                brought |= self.courier.store_message(f"manifest.{manifest.digest}", bundle.envelope)
        for blob in want.blobs:
            place = self.courier.blob_path(blob.sha256)
            if blob.sha256 in blobs and not place.exists():
                shutil.copyfile(blobs[blob.sha256], place)
                brought = True
        return brought

    # -- what the device does

    def worker(self) -> Worker:
        return Worker(self.config, seam=lambda component: self.machines[component.name])

    def run(self) -> None:
        """Runs of the worker until it wants nothing that can be brought."""
        for _ in range(20):
            assert self.worker().run() == 0
            if not self.carry():
                return
        raise AssertionError("the device does not come to rest")

    def deliver(self, sequence: int, bundle: Bundle) -> None:
        """Order `bundle` for everybody, offer it, and let the device do what it will."""
        self.offer(bundle)
        self.send(self.stock.order(sequence, everybody("r-1", bundle.goal())))
        self.run()

    def begin_download(self, bundle: Bundle) -> None:
        """Bring the device to wait for the blobs of `bundle`."""
        self.send(self.stock.order(2, everybody("r-1", bundle.goal())))
        self.send(bundle.envelope, f"manifest.{bundle.digest}")
        assert self.worker().run() == 0
        assert self.record().state is Lifecycle.DOWNLOADING
        assert self.wanted() == {blob_of(bundle), bundle.release.artifacts[0].index_sha256}

    def run_until_fetched(self, bundle: Bundle) -> None:
        """Let everything of `bundle` be brought; the next run of the worker finds it."""
        for _ in range(20):
            assert self.worker().run() == 0
            self.carry()
            if all(self.courier.blob_path(p.name).exists() for p in (bundle.path / "blobs").iterdir()):
                return
        raise AssertionError("the device does not ask for the blobs")

    def install_first(self, bundle: Bundle) -> None:
        """Bring the device to run `bundle` by an order, then forget the order."""
        self.offer(bundle)
        self.send(self.stock.order(1, baseline=bundle.goal()))
        self.run()
        assert self.runs(bundle)

    # -- what there is to see

    def wanted(self) -> set[str]:
        """The blobs that the worker asks for now."""
        want = self.courier.read_want()
        assert want is not None
        return {blob.sha256 for blob in want.blobs}

    def answer(self) -> tuple[Verdict, str]:
        """Verdict and code of the last answer."""
        found = self.component().answered
        assert found is not None
        return found.verdict, found.code

    def record(self, component: str = "kiosk") -> Record:
        data = Layout(self.config.install_root, component).journal.read_bytes()
        return Record.model_validate_json(data, strict=True)

    def runs(self, bundle: Bundle) -> bool:
        """Whether `bundle` is what is committed, what `current` leads to and what was started last."""
        run, target = self.record().run, self.machine.state().target
        name = f"{bundle.release.version}-{bundle.digest[:8]}"
        committed = run is not None and run.digest == bundle.digest
        return committed and self.layout.read_current() == f"versions/{name}" == target

    def status(self) -> Status:
        """The status in the spool, after its attestation was verified."""
        pair = self.courier.read_status()
        assert pair is not None
        public = memory.load_key(self.config.worker_dir / "device.key").public
        return trust.verify_status(*pair, public)

    def component(self, name: str = "kiosk") -> ComponentStatus:
        return self.status().components[name]

    def events(self) -> list[dict[str, Any]]:
        found = (self.courier.read_event(number) for number in self.courier.event_numbers())
        return [json.loads(payload) for payload in found if payload is not None]

    def told(self) -> list[str]:
        """Events in order, without their prefix; with the code, if they have one."""
        short = ((e["type"].removeprefix("dev.fleetfoot."), e.get("errorcode")) for e in self.events())
        return [f"{name} {code}" if code else name for name, code in short]

    def resolved(self) -> Plan:
        """What the newest documents ask for, by the same function that manager and console use."""
        mind = memory.Memory(self.config.worker_dir)
        found = {scope: mind.desired(scope, "kiosk") for scope in ("group", "own")}
        group, own = (pair[0] if pair else None for pair in (found["group"], found["own"]))
        record = self.record()
        device = Facts(DEVICE, self.config.labels, record.run, record.prev, record.refused, record.floor)
        return resolve(group, own, device)

    def problem_of(self, target: str) -> str:
        """What is wrong with the tree that `target` names; empty if it is whole, verified and startable."""
        name = target.removeprefix("versions/")
        data = self.layout.envelope(name)
        if data is None:
            return "no envelope beside it"
        try:
            release, digest = trust.verify_release(data, self.stock.house.root)
            members = extract.hash_tree(self.layout.tree(name))
        except FleetfootError as error:
            return str(error)
        artifact = release.artifacts[0]
        if name != f"{release.version}-{digest[:8]}" or tree_sha256(members) != artifact.tree_sha256:
            return "not what was signed"
        beside = self.layout.versions / f"{name}{ENTRYPOINT_SUFFIX}"
        started = self.layout.entrypoint(name)
        if started != artifact.entrypoint or not beside.is_file():
            return "nothing says what to start"
        return "" if os.access(self.layout.tree(name) / started, os.X_OK) else "it cannot be started"


_TOML = """\
[agent]
device = "{device}"
group = "{group}"
labels = {{site = "north"}}
state_dir = "state"
run_dir = "run"
install_root = "opt"
[broker]
url = "mqtt://127.0.0.1:1"
[upgrade]
enabled = {enabled}
{policy}
[components.kiosk]
{more}
"""


def configure(
    folder: Path, *, enabled: bool = True, policy: str = "", more: str = "", window: float = 0.0
) -> AgentConfig:
    """A configuration below `folder`; probation is one look long, or `window` seconds."""
    text = _TOML.format(device=DEVICE, group=GROUP, enabled=str(enabled).lower(), policy=policy, more=more)
    config = configuration.parse(text, folder / "agent.toml")

    def quick(component: Component) -> Component:
        return replace(component, window=window, settle=window / 2)

    return replace(config, components={name: quick(c) for name, c in config.components.items()})


def make_rig(folder: Path, stock: Stock, **settings: Any) -> Rig:
    """A device that was initialised and has nothing installed."""
    config = configure(folder, **settings)
    durable.make_folder(config.worker_dir, 0o700)
    memory.make_key(config.worker_dir / "device.key")
    durable.write_file(config.worker_dir / "root.json", stock.house.root_envelope, 0o600)
    return Rig(folder, stock, config)


def running(folder: Path, stock: Stock) -> Rig:
    """A device that runs 1.0.0 and could be brought 1.1.0 and 1.2.0."""
    found = make_rig(folder, stock)
    found.install_first(stock["1.0.0"])
    found.offer(stock["1.1.0"], stock["1.2.0"])
    found.asked_for.clear()
    return found


def copy_of(rig: Rig, folder: Path) -> Rig:
    """The same device in another folder, its component started."""
    shutil.copytree(rig.folder, folder, symlinks=True)
    components = {
        name: replace(component, socket=folder / "run" / f"{name}.sock")
        for name, component in rig.config.components.items()
    }
    config = replace(
        rig.config,
        path=folder / "agent.toml",
        state_dir=folder / "state",
        run_dir=folder / "run",
        install_root=folder / "opt",
        components=components,
    )
    copy = Rig(folder, rig.stock, config, dict(rig.behaviour))
    copy.bundles = dict(rig.bundles)
    for machine in copy.machines.values():
        machine.boot()
    return copy


def durable_calls(before: Callable[[str, tuple[Any, ...]], None]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name, replacement) for each durable change in `durable`, which first tells `before`."""

    def watched(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before(name, args)
            return inner(*args, **kwargs)

        return call

    for name in ("write_file", "swap_symlink", "rename", "remove_file"):
        yield name, watched(name, getattr(durable, name))
