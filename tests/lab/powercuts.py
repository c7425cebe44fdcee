"""Power cuts at random moments of installs, returns, guard runs and self-upgrades, and what they leave.

A `Cutter` owns one host and one thread. It orders versions up and down, and one that dies; it cuts the power
at a random moment after the order, or, nearly as often, while the device recovers from the cut before. A
copy of the disk is then mounted elsewhere and judged; then the host is booted again. Whenever it is left in
peace it must arrive where its orders lead: at the ordered version, or, if that one dies or the cuts have used
up its starts, back at the old one, with the order refused. What is random comes from the seed; how fast the
machine is at a moment does not.
"""

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.lab.device import COMPONENT, DIES, Device, Shop, problem_of
from tests.lab.host import Host, Opened, own_mounts
from tests.lab.layers import HOLD
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_agent.layout import Layout, version_name
from fleetfoot_agent.worker.journal import read_record
from fleetfoot_agent.worker.lifecycle import IN_FLIGHT
from fleetfoot_agent.worker.record import Record

#: Ordered in turn; a device keeps three, so what is ordered must as a rule be unpacked anew.
GOOD_VERSIONS = ("1.0.0", "1.0.1", "1.0.2", "1.1.0")
BAD_VERSION = "1.2.0"

#: Seconds after an order, and after a boot, within which the power is cut.
AFTER_ORDER = 2.6
AFTER_BOOT = 2.0
#: Seconds that a hunt for a state may take, how many of the orders are hunts, how long the state is held for
#: the hunter, and within how many seconds it is cut: mostly in it, at times right after it.
HUNT = 5.0
HUNTS = 0.75
HELD = 0.3
AFTER_FOUND = 0.35
#: Cuts that each state must have had in a run of 200.
EACH = 10
#: States of the journal that are hunted, in their order. One that was missed is hunted in the next.
HUNTED = (
    "waiting",
    "downloading",
    "verifying",
    "staging",
    "staged",
    "activating",
    "probation",
    "rolling_back",
)
#: Cuts in a row before the device is left in peace.
RECUTS = 4


@dataclass
class Tally:
    """What all cutters together have seen."""

    wanted: int
    cuts: int = 0
    kept: int = 0
    changed: int = 0
    converged: int = 0
    gone_back: int = 0
    states: Counter[str] = field(default_factory=Counter)
    #: Of the agent's own journal, while it upgrades itself.
    own_states: Counter[str] = field(default_factory=Counter)
    trials: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def more(self, *, own: bool) -> bool:
        """Take the next cut, if there is one left and nobody has failed.

        own: of the agent itself. These come on top, as many as there is time for beside the others.
        """
        with self.lock:
            if self.cuts >= self.wanted or self.faults:
                return False
            self.cuts += not own
            return True

    def rarest(self, random: Random) -> str:
        """A hunted state that has had the fewest cuts."""
        with self.lock:
            least = min(self.states[state] for state in HUNTED)
            return random.choice([state for state in HUNTED if self.states[state] <= least + 1])

    def __str__(self) -> str:
        states = ", ".join(f"{state} {count}" for state, count in self.states.most_common())
        own = ", ".join(f"{state} {count}" for state, count in self.own_states.most_common())
        trials = ", ".join(f"{trial} {count}" for trial, count in sorted(self.trials.items()))
        return (
            f"{self.cuts} cuts: {self.kept} left the old version, {self.changed} the ordered one; "
            f"journal {states}; of the agent itself {own}; trial {trials}; "
            f"came to rest {self.converged} times, {self.gone_back} of them by going back; "
            f"{len(self.faults)} faults"
        )


@dataclass(frozen=True)
class Verdict:
    """A disk as it was found: text of `current`, the journal, what the trial says in short."""

    current: str
    record: Record
    trial: str


def judge(upper: Path, shop: Shop, component: str = COMPONENT) -> Verdict:
    """Judge what lies on a disk that nothing has touched since the cut; AssertionError says what is wrong."""
    layout = Layout(upper / "opt/fleetfoot", component)
    record = read_record(layout.journal.read_bytes())
    current = os.readlink(layout.current)
    trial = layout.read_trial()
    whole = [current]
    if os.path.lexists(layout.trial):
        assert trial is not None, f"the trial is torn: {layout.trial.read_bytes()!r}"
        whole.append(trial.old)
    if record.work is not None and record.work.old is not None:
        whole.append(f"versions/{record.work.old}")
    way_back = record.prev if record.work is None else None
    if way_back is not None:
        whole.append(f"versions/{version_name(way_back.version, way_back.digest)}")
    for target in whole:
        problem = problem_of(layout, target, shop.root)
        assert not problem, f"{problem} (journal {record.state}, current {current}, trial {trial})"
    if record.state not in IN_FLIGHT:
        run = record.run
        assert run is not None, "the journal knows of no version"
        assert current == f"versions/{version_name(run.version, run.digest)}", f"{current} runs, not {run}"
    said = "none" if trial is None else f"{trial.attempts} of {trial.max_attempts}"
    return Verdict(current, record, said)


class Cutter:
    """One host, whose disk begins as a clone of `golden`'s. `run` is for a thread of its own.

    window: seconds of probation. A long one leaves returns to the guard, a short one to the worker.
    bad: how many of its orders are for the version that dies, from 0 to 1.
    """

    versions: tuple[str, ...] = GOOD_VERSIONS
    bad_version = BAD_VERSION
    hunts = HUNTS

    def __init__(
        self, host: Host, golden: Host, shop: Shop, tally: Tally, seed: str, *, window: float, bad: float
    ) -> None:
        self.host = host
        self.device = self.make_device(host, shop)
        self._golden = golden
        self._shop = shop
        self._tally = tally
        self._seed = seed
        self._random = Random(seed)  # noqa: S311
        self._window = window
        self._bad = bad
        self._good = shop.bundles[self.versions[0]]
        self._old = self._ordered = self._good
        self._attempts: Counter[str] = Counter()
        self._mount = host.image.parent / "judged"
        self.done = 0

    def make_device(self, host: Host, shop: Shop) -> Device:
        """What is looked at on the host."""
        return Device(host, shop)

    def judge_more(self, upper: Path, found: Verdict) -> None:
        """What else must hold of the disk; AssertionError says what is wrong."""

    def run(self) -> None:
        """Cut until the tally has enough; then the device must arrive a last time."""
        try:
            own_mounts()
            self._first_boot()
            recuts = 0
            own = self.device.component != COMPONENT
            while self._tally.more(own=own):
                if not self._again(recuts):
                    self._arrive()
                    hunted = self._prey() if self._random.random() < self.hunts else None
                    self._order(hunted)
                    self._await_moment(hunted)
                    recuts = 0
                else:
                    self._await_again()
                    recuts += 1
                self.cut()
                self.host.boot(wait=False)
            self._arrive()
        except BaseException as error:
            with self._tally.lock:
                self._tally.faults.append(f"seed {self._seed} after {self.done} cuts: {error}")
        finally:
            self.host.remove()

    def _prey(self) -> str:
        """The state to be hunted next."""
        return self._tally.rarest(self._random)

    def _first_boot(self) -> None:
        self.host.clone_disk(self._golden)
        self.host.boot()
        self.device.configure(window=self._window, settle=0.1)
        self.host.run("sync")

    def _arrive(self) -> None:
        """Left in peace, with all that it wants, the device comes to rest where it must; see the module."""
        self.device.bring(self._ordered)
        try:
            self._good = until(self._at_rest, f"{self.host.name} comes to rest", seconds=60) or self._good
        except AssertionError as error:
            told = self.host.journal("-n", "200")
            where = f"ordered {self._ordered.release.version} {self._ordered.digest[:8]}"
            where += f" attempt {self._attempts[self._ordered.digest]}, from {self._old.release.version}"
            raise AssertionError(f"{error}: {where}\n{self.device.record()}\n{told}") from error
        with self._tally.lock:
            self._tally.converged += 1
            self._tally.gone_back += self._good is not self._ordered

    def _at_rest(self) -> Bundle | None:
        """What runs, when it may stay so and really runs."""
        try:
            for bundle in (self._old, self._ordered):
                if self.device.runs(bundle) and (bundle is self._ordered or self._refused()):
                    assert bundle is not self._shop.bundles[self.bad_version], (
                        "what dies at every start was committed"
                    )
                    return bundle
        except (OSError, IndexError):
            pass  # it is still booting
        return None

    def _refused(self) -> bool:
        record, digest = self.device.record(), self._ordered.digest
        return record is not None and record.refused.get(digest) == self._attempts[digest]

    def _order(self, hunted: str | None) -> None:
        # The order is on the disk when this returns: whatever comes of it comes from the device.
        if hunted == "rolling_back" or self._random.random() < self._bad:
            bundle = self._shop.bundles[self.bad_version]
        else:
            turn = self.versions.index(self._good.release.version) + 1
            bundle = self._shop.bundles[self.versions[turn % len(self.versions)]]
        self._old, self._ordered = self._good, bundle
        self._attempts[bundle.digest] += 1
        order = self._shop.order(bundle, attempt=self._attempts[bundle.digest])
        if hunted is not None:
            self.host.path(HOLD).write_text(f"{hunted} {HELD}")
        # Without the manifest it stays waiting, without the blobs downloading, until `bring`.
        self.device.order(order, bundle, manifest=hunted != "waiting", blobs=hunted != "downloading")

    def _await_moment(self, hunted: str | None) -> None:
        """Any moment after the order; or one in a state that is over in milliseconds, and hard to hit so."""
        if hunted is None:
            self._pass(AFTER_ORDER)
            return
        states = HUNTED[HUNTED.index(hunted) :]
        words = [f'"state":"{state}"'.encode() for state in states]
        journal = self.device.layout.journal
        end = time.monotonic() + HUNT
        while not any(word in journal.read_bytes() for word in words) and time.monotonic() < end:
            time.sleep(0.0005)
        self._pass(AFTER_FOUND)

    def _again(self, recuts: int) -> bool:
        """Whether the next cut comes while it recovers; `recuts`: how often that was so in a row."""
        return recuts < RECUTS and self._random.random() >= 0.55

    def _await_again(self) -> None:
        """Any moment while it recovers from the cut before."""
        self._pass(AFTER_BOOT)

    def _pass(self, most: float) -> None:
        """Let a random time pass: what is waited for here is no fact, but the moment of the cut."""
        time.sleep(self._random.uniform(0.0, most))

    def cut(self) -> Verdict:
        """Cut the power and judge the disk."""
        self.host.cut_power()
        self.done += 1
        with Opened(self.host, self._mount) as upper:
            found = judge(upper, self._shop, self.device.component)
            self.judge_more(upper, found)
        # The order before was carried out and confirmed: nothing from before that may come back.
        both = (self._old, self._ordered)
        names = [f"versions/{version_name(b.release.version, b.digest)}" for b in both]
        assert found.current in names, f"current is {found.current}, neither of {names}"
        with self._tally.lock:
            own = self.device.component != COMPONENT
            (self._tally.own_states if own else self._tally.states)[str(found.record.state)] += 1
            self._tally.trials[found.trial] += 1
            if found.current == names[0]:
                self._tally.kept += 1
            else:
                self._tally.changed += 1
        return found


def stock(shop: Shop) -> None:
    """Build every version that is ordered."""
    for version in GOOD_VERSIONS:
        shop.release(version)
    shop.release(BAD_VERSION, DIES)


def cut_after_commit(host: Host, golden: Host, shop: Shop) -> Bundle:
    """Upgrade, await the commit and the worker's end, cut: all of it must be on the disk."""
    host.clone_disk(golden)
    host.boot()
    device = Device(host, shop)
    bundle = shop.bundles["1.1.0"]
    device.order(shop.order(bundle), bundle)
    device.await_runs(bundle)
    at_rest = "inactive"
    until(
        lambda: host.show("fleetfoot-worker.service", "ActiveState")["ActiveState"] == at_rest,
        "the worker has ended",
    )
    host.cut_power()
    return bundle
