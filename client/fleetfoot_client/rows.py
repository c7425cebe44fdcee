"""What a manager's results hold, as far as it is shown to people; what is not known is left alone.

Results of a manager are signed, but of another version perhaps: a field that is missing is an error with a
name, not a traceback.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError
from fleetfoot_protocol.states import RolloutState

#: In the reason of a rollout that is paused without a hold -> what it stands for.
_AWAITS = {"awaits approval": "approval", "is staged": "activation", "blessed release": "blessing"}


def awaited(state: str, reason: str) -> str:
    """The word of a person that a rollout stands for: `approval`, `activation`, `blessing`, or none."""
    if state == RolloutState.AWAITING_APPROVAL:
        return "approval"
    if state != RolloutState.PAUSED:
        return ""
    return next((word for part, word in _AWAITS.items() if part in reason), "")


class Row(BaseModel):
    """Base of rows: frozen; fields that this version does not know are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ReleaseRow(Row):
    """A release of the catalogue. `length` in bytes."""

    component: str
    version: str
    digest: str
    channel: str
    counter: int
    min_counter: int = 0
    life: str
    created: str
    notes: str = ""
    platforms: tuple[str, ...] = ()
    length: int
    signers: tuple[str, ...] = ()
    recalled: str = ""


class StepRow(Row):
    """A release between two that are compared."""

    version: str
    notes: str = ""
    recalled: str = ""


class PlatformRow(Row):
    """An artifact of one platform in both; lengths in bytes, None where there is none."""

    platform: str
    from_length: int | None = None
    to_length: int | None = None
    same: bool = False


class ComparedRow(Row):
    """What lies between two releases."""

    component: str
    older: ReleaseRow = Field(alias="from")
    newer: ReleaseRow = Field(alias="to")
    between: tuple[StepRow, ...] = ()
    platforms: tuple[PlatformRow, ...] = ()
    more: int = 0


class ComponentRow(Row):
    """A component on a device."""

    version: str = ""
    digest: str = ""
    state: str = ""
    badge: str = ""
    target: str = ""
    code: str = ""
    reason: str = ""
    rollout: str = ""


class ErrorRow(Row):
    """A device's last error."""

    code: str = ""
    message: str = ""
    at: str = ""
    remedy: str = ""


class OwnRow(Row):
    """The newest act on a device's component."""

    act: str = ""
    kind: str
    state: str
    version: str = ""
    outcome: str = ""
    code: str = ""


class DeviceRow(Row):
    """A device."""

    id: str
    group: str
    online: bool = False
    platform: str = ""
    agent: str = ""
    last_seen: str = ""
    labels: dict[str, str] = {}
    alarms: tuple[str, ...] = ()
    components: dict[str, ComponentRow] = {}
    last_error: ErrorRow | None = None
    unsupported: dict[str, str] = {}
    own: dict[str, OwnRow] = {}


class ActRow(Row):
    """What was asked of one device apart from its group, and how far it is; `already`: nothing had to be."""

    device: str
    component: str
    act: str
    kind: str
    state: str
    pins: bool = False
    version: str = ""
    outcome: str = ""
    code: str = ""
    online: bool = True
    already: bool = False


class EngineRow(Row):
    """What became of the engine, and of which rollouts with it."""

    engine: str
    rollouts: tuple[str, ...] = ()


class ReachableRow(Row):
    """A release that a device could go to: `direct` at once, else `reason` says why not.

    `refused`: the attempt in which it failed there; whoever orders it all the same orders one more.
    """

    version: str
    channel: str = ""
    life: str = ""
    created: str = ""
    direct: bool
    code: str = ""
    reason: str = ""
    refused: int = 0

    @property
    def remark(self) -> str:
        """Why not, or what to know before."""
        if self.direct and self.refused:
            return f"failed here before: this would be attempt {self.refused + 1}"
        return self.reason or self.code


class RefusingRow(Row):
    """A device that would refuse the release, as far as the manager knows."""

    device: str
    code: str
    reason: str = ""


class PlanNote(Row):
    """What somebody noted of a rollout."""

    rollout: str = ""
    title: str
    category: str = ""
    author: str = ""
    at: str = ""
    text: str = ""
    tags: tuple[str, ...] = ()


class GateRow(Row):
    """How a rollout goes out, what stops it and what lets it on. `breaker`: None where it is not said."""

    strategy: str = ""
    breaker: int | None = None
    consecutive: bool = False
    canaries: tuple[str, ...] = ()
    stage: str = ""
    failure_percent: int = 0
    min_successes: int = 1
    approve_each_wave: bool = False
    offline_policy: str = ""
    priority: int = 0
    expires: str = ""


class PlanRow(GateRow):
    """What a rollout would do. `waves`: cumulative device counts; times in seconds.

    Where the lists were shortened, the counts are greater than their lengths. `supersedes`: rollouts whose
    place it would take. `blocked`: why it could be planned, and not started now.
    """

    component: str
    version: str
    digest: str
    groups: tuple[str, ...]
    total: int
    waves: tuple[int, ...]
    settle: float = 0
    device_timeout: float = 0
    refusing: tuple[RefusingRow, ...] = ()
    refusing_count: int = 0
    chain: tuple[str, ...] = ()
    batch_size: int = 0
    batch_count: int = 0
    estimated_total_seconds: int = 0
    estimated_from: str = ""
    offline_count: int = 0
    ahead_count: int = 0
    mode: str = ""
    supersedes: tuple[str, ...] = ()
    blocked: str = ""
    warnings: tuple[str, ...] = ()
    approval_id: str = ""
    already: tuple[str, ...] = ()
    already_count: int = 0
    approval: bool = False
    notes: tuple[PlanNote, ...] = ()


class RolloutDevice(Row):
    """A device of a rollout and how it ended."""

    id: str
    group: str = ""
    wave: int = 0
    terminal: str
    code: str = ""
    reason: str = ""
    since: str = ""
    ended: str = ""


class TookRow(Row):
    """Seconds from being asked to being healthy, over so many devices. `p90`: nine of ten stayed below."""

    devices: int
    median: float
    p90: float


class BeforeRow(TookRow):
    """The same of the last rollout of the component."""

    rollout: str
    version: str = ""


class CauseRow(Row):
    """How many devices of a group ended badly with the same code."""

    group: str
    code: str
    count: int


class RolloutRow(GateRow):
    """A rollout. `waves`: cumulative device counts; `wave`: how many of them are open.

    `settles`: when the open wave has been well for long enough; `more`: devices that are not listed.
    """

    rollout: str
    component: str
    version: str
    groups: tuple[str, ...] = ()
    state: str
    reason: str = ""
    wave: int = 0
    waves: tuple[int, ...] = ()
    total: int = 0
    counts: dict[str, int] = {}
    revision: int
    started: str = ""
    settles: str = ""
    ended: str = ""
    attempt: int = 1
    requested_by: str = ""
    decided_by: str = ""
    decision: str = ""
    after: str = ""
    took: TookRow | None = None
    before: BeforeRow | None = None
    causes: tuple[CauseRow, ...] = ()
    notes: tuple[PlanNote, ...] = ()
    devices: tuple[RolloutDevice, ...] = ()
    more: int = 0

    @property
    def awaits(self) -> str:
        """The word of a person that it stands for (`awaited`)."""
        return awaited(self.state, self.reason)


class DistributionRow(Row):
    """How many devices run which version of a component, and are in which state."""

    versions: dict[str, int] = {}
    states: dict[str, int] = {}
    baseline: str = ""


class PolicyRow(Row):
    """What a group demands of rollouts."""

    approval: str = ""
    approval_above: int = 0
    approval_by_other: bool = False
    approval_waves: bool = False


class GroupRow(Row):
    """A group."""

    group: str
    title: str = ""
    devices: int = 0
    online: int = 0
    components: dict[str, DistributionRow] = {}
    policy: PolicyRow = PolicyRow()


class DriftRow(Row):
    """A device that is not where its documents want it."""

    device: str
    component: str
    online: bool = False
    runs: str = ""
    wants: str = ""
    badge: str = ""
    why: str = ""
    code: str = ""
    reason: str = ""


class AuditRow(Row):
    """An entry of the audit log; `data` is a JSON object as text."""

    n: int
    at: str
    actor: str
    action: str
    data: str
    request: str = ""
    hash: str = ""


class PastRow(Row):
    """A rollout that has ended."""

    rollout: str
    component: str
    version: str
    groups: tuple[str, ...] = ()
    state: str
    total: int = 0
    success_percent: int | None = None
    ended: str = ""


class RateRow(Row):
    """How several rollouts went."""

    rollouts: int
    completed: int
    success_percent: int | None = None


class TraceRow(Row):
    """An entry of the audit log about a rollout."""

    n: int
    at: str
    actor: str
    action: str
    what: str = ""


class ReportDevice(RolloutDevice):
    """A device in a report. `on_goal`: whether it was last heard of running the release; None: not said."""

    on_goal: bool | None = None


class ReportRow(GateRow):
    """The report of an ended rollout. `waves`: cumulative device counts; times in seconds.

    `asked`, `approved`: the arguments as they were asked for, and as they were approved, if that was edited.
    `takes_back`: the version from which this rollout brings devices back.
    """

    rollout: str
    fleet: str = ""
    component: str
    version: str
    digest: str = ""
    groups: tuple[str, ...] = ()
    state: str
    reason: str = ""
    selector: dict[str, str] = {}
    waves: tuple[int, ...] = ()
    settle: float = 0
    device_timeout: float = 0
    attempt: int = 1
    after: str = ""
    takes_back: str = ""
    total: int = 0
    started: str = ""
    ended: str = ""
    requested_by: str = ""
    decided_by: str = ""
    decision: str = ""
    asked: dict[str, Any] = {}
    approved: dict[str, Any] = {}
    success_percent: int | None = None
    notes: tuple[PlanNote, ...] = ()
    audit: tuple[TraceRow, ...] = ()
    devices: tuple[ReportDevice, ...] = ()


class More(Row):
    """How many rows a list leaves out because they did not fit into the reply."""

    more: int = 0


R = TypeVar("R", bound=Row)


def parse(kind: type[R], value: object) -> R:
    """A part of a result as a row. FormError `upgrade_malformed` naming what is not as expected."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _unexpected(error) from None


def parse_list(kind: type[R], result: dict[str, Any], name: str) -> list[R]:
    """The list `name` of a result as rows. FormError as for `parse`."""
    items = result.get(name)
    if not isinstance(items, list):
        raise FormError(Code.UPGRADE_MALFORMED, f"the manager's reply has no list {name!r}", remedy=_REMEDY)
    return [parse(kind, item) for item in items]


_REMEDY = "use a client of the manager's version, or --json to see the reply as it came"


def _unexpected(error: ValidationError) -> FormError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return FormError(
        Code.UPGRADE_MALFORMED,
        f"the manager's reply is not as expected: {where or 'reply'}: {first['msg']}",
        remedy=_REMEDY,
    )
