"""What can happen to a rollout: the inputs of `rollout.advance`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from fleetfoot_protocol.states import Terminal


class Decision(StrEnum):
    """What a person decides about a rollout that tripped."""

    CONTINUE = "continue"
    ROLLBACK = "rollback"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Approve:
    """A rollout that awaits approval is approved as planned, or the next wave of one that is running."""


@dataclass(frozen=True, slots=True)
class Activate:
    """What everybody has staged may be activated, wave by wave. `by` is the operator's id."""

    by: str


@dataclass(frozen=True, slots=True)
class Away:
    """These devices were offline at the moment in which they were asked."""

    devices: frozenset[str]


@dataclass(frozen=True, slots=True)
class Supersede:
    """Another rollout, `by`, takes the place of this one; who has moved stays until that one moves it."""

    by: str


@dataclass(frozen=True, slots=True)
class Bless:
    """The release may now go to whole groups: waves behind the first one may open."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first wave may go out."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device's verified status says about this rollout's component.

    running: sha256 of the release that runs, None if nothing does. rollout, attempt: whose work `terminal`,
    `code` and `reason` are about. terminal:

    - ACTIVE while any work is in hand (downloading to probation, rolling back), whichever it is;
    - HEALTHY, FAILED, ROLLED_BACK, SKIPPED, CANCELED for the newest outcome of this rollout and attempt;
    - None when nothing is in hand and no outcome of this rollout and attempt stands in the status.
    """

    device: str
    running: str | None
    terminal: Terminal | None = None
    code: str = ""
    reason: str = ""
    rollout: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: due when `rollout.next_deadline` says so; too early does nothing.

    heard: up to when everything was heard that has come, unix seconds; None: until now. What ran out only
    later is not judged yet, since what would have been in time may still wait to be taken in.
    """

    heard: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Freeze: admitted devices that have not begun, do not. `by` is the operator's id."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after a pause."""


@dataclass(frozen=True, slots=True)
class Decide:
    """A person's decision."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Retry:
    """One more attempt for every exposed device that failed, went back or stayed silent."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop; who has moved stays. `reason`: why, where somebody said so."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Expire:
    """The rollout's time is over; who has moved stays."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A device that matches the selector came into one of the rollout's groups."""

    device: str
    group: str


@dataclass(frozen=True, slots=True)
class Left:
    """A device is no longer in any of the rollout's groups."""

    device: str


RolloutEvent: TypeAlias = (
    Activate
    | Approve
    | Away
    | Bless
    | Start
    | Report
    | Tick
    | Pause
    | Resume
    | Decide
    | Retry
    | Cancel
    | Expire
    | Joined
    | Left
    | Supersede
)
#: What the table of transitions is keyed by: the type of an event, or a decision.
Kind: TypeAlias = type[RolloutEvent] | Decision


def kind_of(event: RolloutEvent) -> Kind:
    """The key of the event in the table of transitions."""
    return event.decision if isinstance(event, Decide) else type(event)
