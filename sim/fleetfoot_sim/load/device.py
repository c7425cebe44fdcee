"""One simulated device, without a connection: documents in, statuses out.

It verifies, resolves and signs with the code of the protocol, as a worker does. What is simulated is the
work: no artifact is downloaded or installed, it takes its time and ends as the device's nature wants. What
many devices of one process would verify again and again, byte for byte the same, is verified once.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fleetfoot_protocol import dsse, keys, times, topics, trust
from fleetfoot_protocol.allow import Rules
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Goal, Probe, Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.reports import (
    Answer,
    Clock,
    ComponentStatus,
    Disk,
    Installed,
    OutcomeRecord,
    Platform,
    PolicySummary,
    Preflight,
    Status,
)
from fleetfoot_protocol.resolve import Act, Device, Plan, resolve
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_sim.load import preflight
from fleetfoot_sim.load.shapes import Nature

PLATFORM = Platform(os="linux", arch="amd64")
RULES = Rules(enabled=True, allowed_channels=("dev",))
FREE = 10**9
_YEAR = 365 * 86400
_REMEMBERED = 64

V = TypeVar("V")


class Verifier:
    """Verifies documents with a trust root; what is byte for byte the same, once. `count` of verifications.

    each: verify for every device anew, which measures what the processors of a fleet do in parallel.
    """

    def __init__(self, root: TrustRoot, *, each: bool = False) -> None:
        self.root = root
        self.count = 0
        self._each = each
        self._desired: dict[bytes, Desired | UpgradeError] = {}
        self._probes: dict[bytes, Probe | UpgradeError] = {}
        self._releases: dict[bytes, tuple[Release, str] | UpgradeError] = {}

    def desired(self, data: bytes) -> Desired:
        """The desired state in an envelope. Raises UpgradeError."""
        found = None if self._each else self._desired.get(data)
        if found is None:
            self.count += 1
            try:
                found = trust.verify_desired(data, self.root)
            except UpgradeError as error:
                found = error
            _remember(self._desired, data, found)
        if isinstance(found, UpgradeError):
            raise found
        return found

    def probe(self, data: bytes) -> Probe:
        """The probe in an envelope. Raises UpgradeError."""
        found = None if self._each else self._probes.get(data)
        if found is None:
            self.count += 1
            try:
                found = trust.verify_probe(data, self.root)
            except UpgradeError as error:
                found = error
            _remember(self._probes, data, found)
        if isinstance(found, UpgradeError):
            raise found
        return found

    def release(self, data: bytes) -> tuple[Release, str]:
        """The manifest in an envelope with its digest. Raises UpgradeError."""
        found = None if self._each else self._releases.get(data)
        if found is None:
            self.count += 1
            try:
                found = trust.verify_release(data, self.root)
            except UpgradeError as error:
                found = error
            _remember(self._releases, data, found)
        if isinstance(found, UpgradeError):
            raise found
        return found


def _remember(cache: dict[bytes, V], key: bytes, value: V) -> None:
    while len(cache) >= _REMEMBERED:
        cache.pop(next(iter(cache)))
    cache[key] = value


@dataclass(slots=True)
class Counts:
    """What happened in a fleet. `repeated`: installs of what ran already or had been done before."""

    documents: int = 0
    refused: int = 0
    begun: int = 0
    completed: int = 0
    rolled_back: int = 0
    repeated: int = 0
    statuses: int = 0
    sequences: dict[int, int] = field(default_factory=dict)


def secret_of(seed: int, device: str) -> bytes:
    """The device's secret key: from the seed, so that a fleet is enrolled once and runs often."""
    return hashlib.sha256(f"fleetfoot-sim/{seed}/{device}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is."""

    group: str
    component: str
    topic_root: str = topics.DEFAULT_ROOT


class SimulatedDevice:
    """`publish(kind, payload)` sends; `want(digest)` asks for a manifest; `later(seconds, act)` acts then."""

    __slots__ = (
        "_answer",
        "_attempt",
        "_counter",
        "_done",
        "_incarnation",
        "_later",
        "_outcomes",
        "_place",
        "_preflight",
        "_probe",
        "_publish",
        "_rollout",
        "_secret",
        "_state",
        "_verifier",
        "_waits_for",
        "_want",
        "counts",
        "desired",
        "id",
        "memory",
        "nature",
        "silent",
    )

    def __init__(
        self,
        name: str,
        seed: int,
        nature: Nature,
        place: Place,
        verifier: Verifier,
        counts: Counts,
        publish: Callable[[Kind, bytes], None],
        want: Callable[[str], None],
        later: Callable[[float, Callable[[], None]], None],
        running: Installed | None = None,
    ) -> None:
        self.id = name
        self.nature = nature
        self.counts = counts
        self.silent = False
        self.desired: Desired | None = None
        self.memory = Device(name, {}, running)
        self._secret = secret_of(seed, name)
        # A new run of the simulator is a device that has lost its state: its counter begins anew.
        self._incarnation = f"sim{time.time_ns():x}"[:32]
        self._counter = 0
        self._place = place
        self._verifier = verifier
        self._publish = publish
        self._want = want
        self._later = later
        self._state = Lifecycle.IDLE
        self._answer: Answer | None = None
        self._rollout: str | None = None
        self._attempt: int | None = None
        self._outcomes: tuple[OutcomeRecord, ...] = ()
        self._waits_for: Plan | None = None
        self._probe: Probe | None = None
        self._preflight: Preflight | None = None
        self._done: set[tuple[str, int]] = set()

    # -- what comes in

    def told(self, payload: bytes) -> None:
        """A desired state came; an old or foreign one changes nothing."""
        try:
            desired = self._verifier.desired(payload)
        except UpgradeError:
            self.counts.refused += 1
            return
        if (desired.group, desired.component) != (self._place.group, self._place.component):
            self.counts.refused += 1
            return
        if self.desired is not None and desired.order <= self.desired.order:
            return
        self.desired = desired
        self.counts.documents += 1
        self.counts.sequences[desired.sequence] = self.counts.sequences.get(desired.sequence, 0) + 1
        if self._state in (Lifecycle.IDLE, Lifecycle.STAGED):
            self._decide()

    def asked(self, payload: bytes) -> None:
        """A probe came; the newest is answered, once, as soon as its manifest is there."""
        try:
            probe = self._verifier.probe(payload)
        except UpgradeError:
            self.counts.refused += 1
            return
        if (probe.group, probe.component) != (self._place.group, self._place.component):
            self.counts.refused += 1
            return
        have = self._probe
        if have is None or (probe.id != have.id and probe.issued >= have.issued):
            self._probe = probe
            if not self._answered(None):
                self._want(probe.goal.digest)

    def _answered(self, release: Release | None) -> bool:
        """Whether the newest probe can be answered; then that is said, unless it has been."""
        probe = self._probe
        if probe is None or (self._preflight is not None and self._preflight.id == probe.id):
            return True
        found = preflight.answer(probe, self.memory, release, RULES, PLATFORM, FREE)
        if found is None:
            return False
        self._preflight = found
        self.say()
        return True

    def _decide(self) -> None:
        plan = resolve(self.desired, None, self.memory)
        self._rollout = plan.rollout
        verdict = {Act.REJECT: Verdict.REJECTED, Act.DEFER: Verdict.DEFERRED}.get(plan.act, Verdict.ACCEPTED)
        code = str(plan.code or "") if verdict is not Verdict.ACCEPTED else ""
        before = (self._answer.verdict, self._answer.code) if self._answer else None
        if self.desired is not None:
            order = {"epoch": self.desired.epoch, "sequence": self.desired.sequence}
            self._answer = Answer(**order, scope="group", verdict=verdict, code=code, reason=str(plan.why))
        if plan.act in (Act.INSTALL, Act.STAGE, Act.RETURN) and plan.goal is not None:
            self._begin(plan, plan.goal)
        elif before != (verdict, code):
            self.say()

    def _begin(self, plan: Plan, goal: Goal) -> None:
        run = self.memory.run
        if (goal.digest, goal.attempt) in self._done and plan.act is Act.INSTALL and run == _installed(goal):
            self.counts.repeated += 1
        self.counts.begun += 1
        self._attempt = goal.attempt
        self._state = Lifecycle.DOWNLOADING
        self._waits_for = plan
        self.say()
        if self.nature.silent:
            self.silent = True
            return
        self._want(goal.digest)

    def given(self, payload: bytes) -> None:
        """A release manifest came: the work begins, if it is the one that was wanted."""
        plan, probe = self._waits_for, self._probe
        works = plan is not None and plan.goal is not None and self._state is Lifecycle.DOWNLOADING
        if not works and probe is None:
            return
        try:
            release, digest = self._verifier.release(payload)
        except UpgradeError:
            self.counts.refused += 1
            return
        if probe is not None and digest == probe.goal.digest:
            self._answered(release)
        if plan is None or plan.goal is None or not works:
            return
        if digest == plan.goal.digest:
            goal = plan.goal
            self._state = Lifecycle.ACTIVATING
            self._later(self.nature.work, lambda: self._end(plan, goal))

    def _end(self, plan: Plan, goal: Goal) -> None:
        self._waits_for = None
        if plan.act is Act.STAGE:
            self._state, outcome = Lifecycle.STAGED, Outcome.STAGED
        elif self.nature.fails and plan.act is Act.INSTALL:
            self._state, outcome = Lifecycle.IDLE, Outcome.ROLLED_BACK
            refused = {**self.memory.refused, goal.digest: goal.attempt}
            self.memory = Device(self.id, {}, self.memory.run, self.memory.prev, refused, self.memory.floor)
            self.counts.rolled_back += 1
        else:
            self._state, outcome = Lifecycle.IDLE, Outcome.COMPLETED
            key = (goal.digest, goal.attempt)
            self.counts.repeated += key in self._done and plan.act is Act.INSTALL
            self._done.add(key)
            prev = None if plan.act is Act.RETURN else self.memory.run
            self.memory = Device(self.id, {}, _installed(goal), prev, self.memory.refused, self.memory.floor)
            self.counts.completed += 1
        self._record(goal, outcome)
        self.say()
        self._decide_again()

    def _decide_again(self) -> None:
        """What came while it worked: to the fixpoint, which is at most two moves away."""
        plan = resolve(self.desired, None, self.memory)
        if plan.act in (Act.INSTALL, Act.RETURN) and plan.goal is not None:
            self._decide()

    def _record(self, goal: Goal, outcome: Outcome) -> None:
        if self._rollout is None and outcome is not Outcome.ROLLED_BACK:
            return
        record = OutcomeRecord(
            rollout=self._rollout,
            attempt=goal.attempt,
            digest=goal.digest,
            version=goal.version,
            outcome=outcome,
            code=str(Code.UPGRADE_ROLLED_BACK) if outcome is Outcome.ROLLED_BACK else "",
            running=self.memory.run.digest if self.memory.run else None,
            at=times.to_text(time.time()),
        )
        self._outcomes = (*self._outcomes[-7:], record)

    # -- what goes out

    def say(self) -> None:
        """Publish the status as it is now, with its attestation."""
        if self.silent:
            return
        self._counter += 1
        status = self._status()
        payload = status.payload()
        self._publish(Kind.STATUS, payload)
        attestation = dsse.attest(PayloadType.STATUS, payload, status.counter, self._secret)
        self._publish(Kind.STATUS_ATTESTATION, attestation)
        self.counts.statuses += 1

    def _status(self) -> Status:
        now = time.time() + (_YEAR if self.nature.lies else 0)
        goal = self._waits_for.goal if self._waits_for else None
        component = ComponentStatus(
            state=self._state,
            running=self.memory.run,
            previous=self.memory.prev,
            answered=self._answer,
            rollout=self._rollout,
            attempt=self._attempt,
            target=goal.digest if goal else None,
            refused=dict(self.memory.refused),
            outcomes=self._outcomes,
            preflight=self._preflight,
        )
        return Status(
            fleet=self._verifier.root.fleet,
            group=self._place.group,
            device=self.id,
            incarnation=self._incarnation,
            counter=self._counter,
            boot_id="simulated",
            at=times.to_text(now),
            agent="0.1.0",
            root=self._verifier.root.version,
            platform=PLATFORM,
            capabilities=("upgrade", "stage", "rollback"),
            policy=PolicySummary(enabled=True, channels=("stable", "beta", "dev")),
            disk=Disk(free=FREE),
            clock=Clock(trusted=True, floor=times.to_text(0)),
            components={self._place.component: component},
        )


def _installed(goal: Goal) -> Installed:
    return Installed(version=goal.version, counter=goal.counter, digest=goal.digest)


def public_of(seed: int, device: str) -> str:
    """The device's public key, hex, for its enrolment."""
    return keys.public_of(secret_of(seed, device)).hex()
