"""States of a component, of a rollout, and how both are shown (VOCABULARY). Standard library only."""

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple


class Lifecycle(StrEnum):
    """What the agent is doing with a component."""

    IDLE = "idle"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGING = "staging"
    STAGED = "staged"
    ACTIVATING = "activating"
    PROBATION = "probation"
    ROLLING_BACK = "rolling_back"


class Outcome(StrEnum):
    """How work on a release ended on a device."""

    COMPLETED = "completed"
    STAGED = "staged"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELED = "canceled"


class Verdict(StrEnum):
    """What a device answers to a desired state."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"


class Terminal(StrEnum):
    """How a device ended for a rollout; `pending` and `active` have not ended."""

    PENDING = "pending"
    ACTIVE = "active"
    HEALTHY = "healthy"
    STAGED = "staged"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    SILENT = "silent"
    CANCELED = "canceled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing more is awaited of the device in this rollout."""
        return self not in (Terminal.PENDING, Terminal.ACTIVE)


class RolloutState(StrEnum):
    """The life of a rollout; transitions are the manager's table."""

    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    SETTLING = "settling"
    PAUSED = "paused"
    TRIPPED = "tripped"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    CANCELED = "canceled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"

    @property
    def ended(self) -> bool:
        """Whether the rollout will never publish anything again."""
        return self in _ENDED


_ENDED = frozenset(
    {
        RolloutState.COMPLETED,
        RolloutState.ROLLED_BACK,
        RolloutState.ABORTED,
        RolloutState.CANCELED,
        RolloutState.EXPIRED,
        RolloutState.SUPERSEDED,
    }
)


#: As what those are counted that proved healthy, and went back when their rollout was rolled back. No device
#: ends so: of each it stays written down that it was healthy.
TAKEN_BACK = "taken_back"


class Badge(NamedTuple):
    """How a state is shown to people: a glyph and a word, so that colour is never needed."""

    glyph: str
    word: str
    colour: str


#: By the plain string: states of different tables that share a word share the badge.
BADGES: dict[str, Badge] = {
    Lifecycle.IDLE: Badge("·", "idle", "grey62"),
    Lifecycle.WAITING: Badge("…", "waiting", "yellow"),
    Lifecycle.DOWNLOADING: Badge("▶", "upgrading", "blue"),
    Lifecycle.VERIFYING: Badge("▶", "upgrading", "blue"),
    Lifecycle.STAGING: Badge("▶", "upgrading", "blue"),
    Lifecycle.STAGED: Badge("■", "staged", "cyan"),
    Lifecycle.ACTIVATING: Badge("▶", "upgrading", "blue"),
    Lifecycle.PROBATION: Badge("▶", "upgrading", "blue"),
    Lifecycle.ROLLING_BACK: Badge("↩", "rolling back", "dark_orange"),
    Outcome.COMPLETED: Badge("✓", "updated", "blue"),
    Outcome.ROLLED_BACK: Badge("↩", "rolled back", "dark_orange"),
    Outcome.FAILED: Badge("✗", "upgrade failed", "red"),
    Outcome.REJECTED: Badge("✗", "upgrade failed", "red"),
    Outcome.CANCELED: Badge("-", "canceled", "grey62"),
    Terminal.PENDING: Badge("·", "pending", "grey62"),
    Terminal.ACTIVE: Badge("▶", "upgrading", "blue"),
    Terminal.HEALTHY: Badge("✓", "updated", "blue"),
    Terminal.SILENT: Badge("?", "silent", "yellow"),
    Terminal.SKIPPED: Badge("-", "skipped", "grey62"),
}


def shown_outcome(
    outcome: str, digest: str, running: tuple[str, int], previous: int | None, completed: Collection[str]
) -> str:
    """What the badge of a device at rest shows of how its newest work ended.

    outcome, digest: of that work; running: digest and counter; previous: the counter of what ran before, if
    the device has that still; completed: digests of all work that ended well. Whoever does not run what it
    was upgraded to any more, or went back to something older, is not `updated`: what runs is what counts.
    """
    if outcome != Outcome.COMPLETED:
        return outcome
    returned = previous is None and any(other != running[0] for other in completed)
    down = previous is not None and previous > running[1]
    return Lifecycle.IDLE if digest != running[0] or returned or down else outcome


class Role(StrEnum):
    """What an operator is in a group."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    GROUP_ADMIN = "group-admin"
    APPROVER = "approver"
    RELEASE_MANAGER = "release-manager"
    ADMIN = "admin"


class Right(StrEnum):
    """What a role permits; one member for each row of the table of roles."""

    READ = "read"
    DEVICE_ACT = "one device"
    FREEZE = "pause, hold"
    PLAN = "plan"
    STEER = "start, resume, decide, cancel"
    APPROVE = "approve"
    RELEASE = "publish, promote, archive, recall"
    ADMINISTER = "operators, groups, devices"


_R = Role
RIGHTS: dict[Right, frozenset[Role]] = {
    Right.READ: frozenset(Role),
    Right.DEVICE_ACT: frozenset({_R.OPERATOR, _R.GROUP_ADMIN, _R.ADMIN}),
    Right.FREEZE: frozenset({_R.OPERATOR, _R.GROUP_ADMIN, _R.APPROVER, _R.RELEASE_MANAGER, _R.ADMIN}),
    Right.PLAN: frozenset({_R.OPERATOR, _R.GROUP_ADMIN, _R.APPROVER, _R.RELEASE_MANAGER, _R.ADMIN}),
    Right.STEER: frozenset({_R.GROUP_ADMIN, _R.ADMIN}),
    Right.APPROVE: frozenset({_R.APPROVER, _R.ADMIN}),
    Right.RELEASE: frozenset({_R.RELEASE_MANAGER, _R.ADMIN}),
    Right.ADMINISTER: frozenset({_R.ADMIN}),
}
