"""Whatever happens to a device, in any order: afterwards it is whole, and does what `resolve` says."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, Stock
from tests.agent.workerrig import Crash, Rig, durable_calls, hurry, make_rig
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.worker.lifecycle import IN_FLIGHT
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle

VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


class Fate:
    """Draws what happens next to a device, from a seed that names the whole story."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.draw = random.Random(seed)  # noqa: S311 - a story that can be told again, no secret
        self.story: list[str] = []
        self._sequence = 0
        self._attempts = dict.fromkeys(VERSIONS, 1)

    def strike(self) -> None:
        """Let one thing happen; the device has not come to rest afterwards."""
        acts = {
            "order": 5,
            "order, killed": 3,
            "own order": 1,
            "another behaviour": 2,
            "a start": 1,
            "journal lost": 1,
            "disk full": 1,
        }
        act = self.draw.choices(list(acts), list(acts.values()))[0]
        self.story.append(act)
        if "order" in act:
            self._order(own=act == "own order")
        if act == "order, killed":
            with self._killed(self.draw.randint(1, 60)), suppress(Crash):
                self.rig.run()
            for _ in range(self.draw.choice((0, 0, 1, 5))):
                self.rig.machine.boot()
        elif act == "another behaviour":
            version = self.draw.choice(VERSIONS)
            self.rig.behaviour[version] = self.draw.choice(("good", "unready", "dies"))
            self.story[-1] += f": {version} {self.rig.behaviour[version]}"
        elif act == "a start":
            self.rig.machine.boot()
        elif act == "journal lost" and self.rig.layout.journal.exists():
            self.rig.layout.journal.write_bytes(self.draw.choice((b"", b"{}", b"\xff")))
        elif act == "disk full":
            with self._full(self.draw.randint(1, 30)):
                self.rig.run()

    def _order(self, *, own: bool) -> None:
        version = self.draw.choice(VERSIONS)
        self._attempts[version] += self.draw.random() < 0.2
        mode = self.draw.choice(("at_least", "exactly"))
        goal = self.rig.stock[version].goal(attempt=self._attempts[version], mode=mode)
        kind = self.draw.choice(("all", "all", "all", "baseline", "stage", "hold", "none"))
        target = everybody(f"r-{self.draw.randint(1, 3)}", goal, hold=kind == "hold")
        if kind == "stage":
            target = target.model_copy(update={"activate_cut": "0" * 16})
        others = [self.rig.stock[v].digest for v in VERSIONS if v != version]
        fields: dict[str, Any] = {"withdrawn": tuple(d for d in others if self.draw.random() < 0.2)}
        fields["baseline"] = goal if kind == "baseline" else None
        if own:
            fields |= {"device": DEVICE, "released": self.draw.random() < 0.5}
        self._sequence += 1
        self.story[-1] += f": {kind} {version} {mode} {fields['withdrawn'] and 'withdrawing'}"
        targets = () if kind in ("baseline", "none") else (target,)
        slot = "own.kiosk" if own else "group.kiosk"
        self.rig.send(self.rig.stock.order(self._sequence, *targets, **fields), slot)

    @contextmanager
    def _killed(self, at: int) -> Iterator[None]:
        left = iter(range(at))

        def effect(name: str, args: tuple[Any, ...]) -> None:
            place = args[0]
            carried = isinstance(place, Path) and place.is_relative_to(self.rig.config.spool / "in")
            if not carried and next(left, None) is None:
                raise Crash(name)

        with pytest.MonkeyPatch.context() as patch:
            for name, replacement in durable_calls(effect):
                patch.setattr(durable, name, replacement)
            patch.setattr(self.rig.machine, "before_restart", lambda: effect("restart", ("",)))
            yield

    @contextmanager
    def _full(self, every: int) -> Iterator[None]:
        real, count = durable.write_file, 0

        def write(path: Path, *args: Any, **kwargs: Any) -> None:
            nonlocal count
            if path.is_relative_to(self.rig.layout.folder):
                count += 1
                if count % every == 0:
                    raise OSError(28, "No space left on device")
            real(path, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "write_file", write)
            yield


def target_of(installed: Installed | None) -> str | None:
    return f"versions/{version_name(installed.version, installed.digest)}" if installed else None


def check_rest(rig: Rig) -> None:
    """What is true of every device that has come to rest."""
    current = rig.layout.read_current()
    assert current is None or rig.problem_of(current) == ""
    assert rig.machine.state().target == current
    assert rig.layout.read_trial() is None
    if not rig.layout.journal.exists():
        return
    record = rig.record()
    assert record.state not in IN_FLIGHT
    assert target_of(record.run) == current
    assert record.prev is None or rig.problem_of(target_of(record.prev) or "") == ""
    plan = rig.resolved()
    staged = plan.act is Act.STAGE and record.state is Lifecycle.STAGED
    later = record.retry is not None
    assert plan.act in (Act.STAY, Act.REJECT, Act.DEFER) or staged or later
    found = rig.component()
    assert (found.running, found.outcomes, found.refused) == (record.run, record.outcomes, record.refused)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_device_comes_to_rest_whole_and_where_it_is_meant_to_be(
    stock: Stock, tmp_path: Path, seed: int
) -> None:
    rig = make_rig(tmp_path, stock)
    rig.offer(*(stock[version] for version in VERSIONS))
    fate, counter = Fate(rig, seed), 0
    for _ in range(9):
        fate.strike()
        current = rig.layout.read_current()
        assert current is None or rig.problem_of(current) == ""
        for _ in range(2):  # once more after a wait that a full disk asked for
            rig.run()
        try:
            check_rest(rig)
        except AssertionError as error:
            raise AssertionError("\n".join(["the device is not at rest after", *fate.story])) from error
        assert rig.status().counter >= counter
        counter = rig.status().counter
