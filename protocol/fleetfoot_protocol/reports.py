"""What devices, managers and operators say: status, rollout progress, requests and replies, events."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from fleetfoot_protocol.documents import SPEC, Document, Model
from fleetfoot_protocol.fields import (
    Channel,
    Digest,
    Id,
    Label,
    LabelKey,
    Line,
    Positive,
    Time,
    Uint,
    Version,
    Word,
)
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict

MAX_OUTCOMES = 16
MAX_CHECKS = 32
MAX_REFUSED = 64

# On the wire these are plain strings; strict models take enum members or exactly their strings.
LifecycleField = Annotated[Lifecycle, Field(strict=False)]
OutcomeField = Annotated[Outcome, Field(strict=False)]
VerdictField = Annotated[Verdict, Field(strict=False)]


class Platform(Model):
    """What a device is: operating system, machine, C library, hardware name (empty if not told)."""

    os: Word
    arch: Word
    libc: Word | None = None
    hw: Label = ""


class Installed(Model):
    """A release on a device."""

    version: Version
    counter: Positive
    digest: Digest


class Answer(Model):
    """What a device answered to the newest document; `scope` says which one it obeyed."""

    epoch: Positive
    sequence: Positive
    scope: Literal["group", "own"]
    verdict: VerdictField
    code: Line = ""
    reason: Line = ""


class Problem(Model):
    """An error as a device tells it."""

    code: Line
    message: Line
    at: Time


class OutcomeRecord(Model):
    """How work on one (rollout, attempt, digest) ended. `running` is the digest that runs afterwards."""

    rollout: Id | None = None
    attempt: Positive
    digest: Digest
    version: Version
    outcome: OutcomeField
    code: Line = ""
    running: Digest | None = None
    at: Time


class CheckResult(Model):
    """One health check as it was tried last for a verdict; `message` says why it failed."""

    check: Line
    healthy: bool
    message: Line = ""


class Preflight(Model):
    """What a device would have done at `at`, had the goal of a probe been ordered: nothing was changed by it.

    `id` is the probe's, `digest` its goal's, so that nobody takes it for the answer to another question.
    """

    id: Id
    digest: Digest
    verdict: VerdictField
    code: Line = ""
    reason: Line = ""
    at: Time


class ComponentStatus(Model):
    """One component in a status. `rollout`, `attempt` and `target` name the work in hand or last done.

    `preflight` is the answer to the newest probe; without one, nobody has asked.
    """

    state: LifecycleField
    reason: Line = ""
    running: Installed | None = None
    previous: Installed | None = None
    floor: Uint = 0
    answered: Answer | None = None
    rollout: Id | None = None
    attempt: Positive | None = None
    target: Digest | None = None
    refused: Annotated[dict[Digest, Positive], Field(max_length=MAX_REFUSED)] = {}
    last_error: Problem | None = None
    outcomes: Annotated[tuple[OutcomeRecord, ...], Field(max_length=MAX_OUTCOMES)] = ()
    checks: Annotated[tuple[CheckResult, ...], Field(max_length=MAX_CHECKS)] = ()
    preflight: Preflight | None = None


class PolicySummary(Model):
    """The part of local policy that a plan must know."""

    enabled: bool
    channels: tuple[Channel, ...]
    min_version: Version | None = None
    pins: Annotated[dict[Id, Version], Field(max_length=256)] = {}


class Disk(Model):
    """`free`: bytes that the agent can still write, the least over its file systems."""

    free: Uint


class Clock(Model):
    """`trusted`: the kernel says that the clock is synchronised. `floor`: no earlier than this, signed."""

    trusted: bool
    floor: Time


class Status(Document):
    """A device's snapshot, retained as plain JSON beside its attestation.

    `incarnation` changes when the agent's state was lost; `counter` rises with every snapshot;
    `understands` is the highest specification; `lost_events` counts events dropped for want of space;
    `alarms` are codes that stand.
    """

    fleet: Id
    group: Id
    device: Id
    incarnation: Word
    counter: Positive
    boot_id: Line
    at: Time
    agent: Version
    understands: Positive = SPEC
    root: Positive
    platform: Platform
    labels: Annotated[dict[LabelKey, Label], Field(max_length=64)] = {}
    capabilities: Annotated[tuple[Word, ...], Field(max_length=64)] = ()
    policy: PolicySummary
    disk: Disk
    clock: Clock
    lost_events: Uint = 0
    alarms: Annotated[tuple[Line, ...], Field(max_length=32)] = ()
    components: Annotated[dict[Id, ComponentStatus], Field(max_length=64)] = {}


class RolloutProgress(Document):
    """A rollout as integrators see it, one message for each of its groups.

    `waves`: cumulative device counts over all groups; `wave`: how many of them are open (0 before the
    start); `counts`: devices of the whole rollout by how they ended.
    """

    fleet: Id
    rollout: Id
    group: Id
    groups: tuple[Id, ...]
    component: Id
    version: Version
    digest: Digest
    state: Word
    reason: Line = ""
    revision: Uint
    waves: tuple[Positive, ...]
    wave: Uint
    total: Uint
    counts: dict[Word, Uint]
    at: Time


class Request(Document):
    """What an operator asks for, signed with the operator's key. Lives at most five minutes.

    `group` is the group it is about, or `*` where the arguments name them; `revision` is the state it
    acts on, where the verb needs one.
    """

    fleet: Id
    operator: Id
    id: Annotated[str, StringConstraints(pattern="^[a-z0-9-]{8,63}$")]
    group: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9-]{0,62}|\*)$")]
    verb: Annotated[str, StringConstraints(pattern=r"^[a-z]+(\.[a-z]+){1,2}$", max_length=63)]
    arguments: dict[str, Any] = {}
    revision: Uint | None = None
    issued: Time
    expires: Time


class Reply(Document):
    """The manager's answer, signed with the director key. `code` is empty when `ok`."""

    fleet: Id
    operator: Id
    id: Annotated[str, StringConstraints(pattern="^[a-z0-9-]{8,63}$")]
    ok: bool
    code: Line = ""
    message: Annotated[str, StringConstraints(max_length=2048)] = ""
    remedy: Annotated[str, StringConstraints(max_length=2048)] = ""
    result: dict[str, Any] = {}
    issued: Time
