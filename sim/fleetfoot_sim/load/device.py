"""One simulated device, without a connection: documents in, statuses out.

It verifies, resolves and signs with the code of the protocol, as a worker does. What is simulated is the
work: no artifact is downloaded or installed, it takes its time and ends as the device's nature wants. What
many devices of one process would verify again and again, byte for byte the same, is verified once.
"""

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fleetfoot_protocol import dsse, keys, times, topics
from fleetfoot_protocol.allow import Rules
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Goal, Probe, Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.reports import (
    MAX_REFUSED,
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
from fleetfoot_sim.load import preflight
from fleetfoot_sim.load.shapes import Nature
from fleetfoot_sim.load.verifier import Verifier

PLATFORM = Platform(os="linux", arch="amd64")
RULES = Rules(enabled=True, allowed_channels=("dev",))
FREE = 10**9
_VERDICTS = {Act.REJECT: Verdict.REJECTED, Act.DEFER: Verdict.DEFERRED}
#: Thousands of devices read the same few times.
_seconds = functools.lru_cache(maxsize=64)(times.from_text)


@functools.lru_cache(maxsize=256)
def _answer(epoch: int, sequence: int, own: bool, verdict: Verdict, code: str, reason: str) -> Answer:
    """One object for all who answer the same: it does not change, and takes its time to make."""
    scope: Literal["own", "group"] = "own" if own else "group"
    return Answer(epoch=epoch, sequence=sequence, scope=scope, verdict=verdict, code=code, reason=reason)


@dataclass(slots=True)
class Counts:
    """What happened in a fleet. `repeated`: installs of what ran already or had been done before.

    documents, sequences: new documents of the group, each counted by every device that took it.
    """

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
    """`publish(kind, payload)` sends; `want(digest)` asks for a manifest; `later(seconds, act)` acts then.

    terse: not to say so when another document has got the same answer, as real devices do.
    """

    __slots__ = (
        "_answer",
        "_attempt",
        "_counter",
        "_done",
        "_floor",
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
        "_terse",
        "_verifier",
        "_waits_for",
        "_want",
        "counts",
        "desired",
        "id",
        "memory",
        "nature",
        "own",
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
        *,
        terse: bool = False,
    ) -> None:
        self.id = name
        self.nature = nature
        self.counts = counts
        self.silent = False
        #: The newest document of its group, and the newest of its own.
        self.desired: Desired | None = None
        self.own: Desired | None = None
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
        self._terse = terse
        self._state = Lifecycle.IDLE
        self._answer: Answer | None = None
        self._rollout: str | None = None
        self._attempt: int | None = None
        self._outcomes: tuple[OutcomeRecord, ...] = ()
        self._waits_for: Plan | None = None
        self._probe: Probe | None = None
        self._preflight: Preflight | None = None
        self._done: set[tuple[str, int]] = set()
        self._floor = 0

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
        if desired.device not in (None, self.id):
            self.counts.refused += 1
            return
        have = self.own if desired.device else self.desired
        if have is not None and desired.order <= have.order:
            return
        self._floor = max(self._floor, _seconds(desired.issued))
        if desired.device:
            self.own = desired
        else:
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
        if self._past(probe.expires):
            return
        if have is None or (probe.id != have.id and probe.issued >= have.issued):
            self._probe = probe
            if not self._answered(None):
                self._want(probe.goal.digest)

    def _answered(self, release: Release | None) -> bool:
        """Whether the newest probe can be answered; then that is said, unless it has been."""
        probe = self._probe
        if probe is None or (self._preflight is not None and self._preflight.id == probe.id):
            return True
        group, own = self._standing(self.desired), self._standing(self.own)
        device = preflight.Asked(self.memory, PLATFORM, FREE, group is not None and group.hold, _live(own))
        found = preflight.answer(probe, device, release, RULES, self._now())
        if found is None:
            return False
        self._preflight = found
        self.say()
        return True

    def _decide(self) -> None:
        """Answer the newest document, and begin what it asks for."""
        before = self._answer
        plan = self._answer_newest()
        if plan.act in (Act.INSTALL, Act.STAGE, Act.RETURN) and plan.goal is not None:
            self._begin(plan, plan.goal)
        elif self._worth_telling(before):
            self.say()

    def _standing(self, document: Desired | None) -> Desired | None:
        return None if document is None or self._past(document.expires) else document

    def _lapsed(self) -> Desired | None:
        """The document that it would obey if it had not expired."""
        return next((one for one in (self.desired, self.own) if one and not self._standing(one)), None)

    def _answer_newest(self) -> Plan:
        group, own = self._standing(self.desired), self._standing(self.own)
        plan = resolve(group, own, self.memory)
        self._rollout = plan.rollout
        document = own if _live(own) else group
        if document is not None:
            verdict = _VERDICTS.get(plan.act, Verdict.ACCEPTED)
            code = "" if verdict is Verdict.ACCEPTED else str(plan.code or "")
            self._answer = _answer(*document.order, document is own, verdict, code, str(plan.why))
        elif (lapsed := self._lapsed()) is not None:
            code, reason = str(Code.UPGRADE_EXPIRED), f"it expired at {lapsed.expires}"
            self._answer = _answer(*lapsed.order, lapsed is self.own, Verdict.REJECTED, code, reason)
        return plan

    def _worth_telling(self, before: Answer | None) -> bool:
        """Whether the answer is another one; to a terse device, only if it says something else."""
        now = self._answer
        if before is None or now is None or not self._terse:
            return now != before
        return (now.verdict, now.code) != (before.verdict, before.code)

    def _now(self) -> float:
        """What its clock says."""
        return time.time() + self.nature.skew

    def _past(self, expires: str) -> bool:
        """Whether that is past: by the signed times it has seen, or by its clock, which it believes."""
        return max(self._floor, int(self._now())) >= _seconds(expires)

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

    @property
    def lacks(self) -> set[str]:
        """The manifests that it waits for: asked for again over each connection, as a courier does."""
        plan, probe = self._waits_for, self._probe
        found = set()
        if self._state is Lifecycle.DOWNLOADING and not self.silent and plan is not None and plan.goal:
            found.add(plan.goal.digest)
        if probe is not None and (self._preflight is None or self._preflight.id != probe.id):
            found.add(probe.goal.digest)
        return found

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
            refused = {d: a for d, a in self.memory.refused.items() if d != goal.digest}
            refused = dict([*refused.items(), (goal.digest, goal.attempt)][-MAX_REFUSED:])
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
        # What came while it worked: to the fixpoint, which is at most two moves away.
        more = self._answer_newest()
        self.say()
        if more.act in (Act.INSTALL, Act.RETURN) and more.goal is not None:
            self._begin(more, more.goal)

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
            at=times.to_text(self._now()),
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
            at=times.to_text(self._now()),
            agent="0.1.0",
            root=self._verifier.root.version,
            platform=PLATFORM,
            capabilities=("upgrade", "stage", "rollback"),
            policy=PolicySummary(enabled=True, channels=("stable", "beta", "dev")),
            disk=Disk(free=FREE),
            clock=Clock(trusted=True, floor=times.to_text(self._floor)),
            components={self._place.component: component},
        )


def _live(own: Desired | None) -> bool:
    """Whether a document of the device's own decides."""
    return own is not None and not own.released


def _installed(goal: Goal) -> Installed:
    return Installed(version=goal.version, counter=goal.counter, digest=goal.digest)


def public_of(seed: int, device: str) -> str:
    """The device's public key, hex, for its enrolment."""
    return keys.public_of(secret_of(seed, device)).hex()
