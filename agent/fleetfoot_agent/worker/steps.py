"""What can happen to an upgrade on a device: the events of the table in `lifecycle`."""

from dataclasses import dataclass

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import CheckResult
from fleetfoot_protocol.resolve import Act


@dataclass(frozen=True, slots=True)
class Begin:
    """A plan asks for work; the manifest is needed first."""

    act: Act
    goal: Goal
    rollout: str | None
    name: str
    old: str | None


@dataclass(frozen=True, slots=True)
class Reorder:
    """The same release is ordered anew: by another rollout, for another attempt, to be activated now."""

    act: Act
    goal: Goal
    rollout: str | None


@dataclass(frozen=True, slots=True)
class Permit:
    """The manifest is verified and local policy proceeds. `present`: its whole tree lies here already."""

    min_counter: int
    present: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """All blobs are there."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Index and lengths are right; unpacking begins."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The tree is whole, verified, durable and has its name."""


@dataclass(frozen=True, slots=True)
class Told:
    """A stage-only order has reached its end."""


@dataclass(frozen=True, slots=True)
class Activate:
    """The order admits activation; `old` is what `current` leads to now."""

    old: str | None


@dataclass(frozen=True, slots=True)
class Swapped:
    """`current` leads to the new tree and the component was restarted."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """Probation passed: commit."""

    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Unwell:
    """The new version failed, or the guard went back already: return."""

    code: Code
    message: str
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is on trial was withdrawn: return without holding it against the release."""


@dataclass(frozen=True, slots=True)
class WayBackProven:
    """The previous version runs and is healthy again (or there was none)."""

    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class WayBackFailed:
    """The previous version does not prove healthy either."""

    message: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The plan changed before activation, or policy does not permit it.

    code: why, where no answer says so: another order (`upgrade_superseded`), none now (`upgrade_canceled`).
    """

    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The work cannot succeed; what runs is untouched. `stage` names the event of the failure."""

    event: Event
    code: Code
    message: str


StepEvent = (
    Begin
    | Reorder
    | Permit
    | Fetched
    | Checked
    | Unpacked
    | Told
    | Activate
    | Swapped
    | Healthy
    | Unwell
    | Recalled
    | WayBackProven
    | WayBackFailed
    | Abandon
    | Fail
)
