"""A group's desired state from its standing intent and the live rollouts (contract sections 3 and 5). Pure.

Order of the targets: a device obeys the first that admits it, so live rollouts stand before standing targets,
and newer before older.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleetfoot_manager.effects import Effect, Lift, SetBaseline, Stand, Withdraw
from fleetfoot_protocol import admission, times
from fleetfoot_protocol.documents import MAX_TARGETS, MAX_WITHDRAWN, Desired, Goal, Target
from fleetfoot_protocol.errors import FleetfootError


@dataclass(frozen=True, slots=True)
class GroupIntent:
    """What stands in a group for a component when no rollout is live.

    withdrawn: release digests, oldest first. standing: targets of completed restricted rollouts, newest
    first.
    """

    baseline: Goal | None = None
    withdrawn: tuple[str, ...] = ()
    standing: tuple[Target, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The intent as JSON values."""
        return {
            "baseline": None if self.baseline is None else self.baseline.model_dump(mode="json"),
            "withdrawn": list(self.withdrawn),
            "standing": [target.model_dump(mode="json") for target in self.standing],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "GroupIntent":
        """The intent that `to_json` wrote. Raises KeyError or ValueError for anything else."""
        baseline = body["baseline"]
        return cls(
            None if baseline is None else Goal.model_validate(baseline),
            tuple(body["withdrawn"]),
            tuple(Target.model_validate(target, strict=False) for target in body["standing"]),
        )


def applied(intent: GroupIntent, effect: Effect) -> GroupIntent:
    """The intent after an effect of a rollout over the group; effects that are no intent change nothing.

    - A withdrawn release leaves baseline and standing targets for good: lifting it later, to start it again
      wave by wave, must not give it to everybody at once.
    - A new baseline supersedes the standing targets that it covers: with `exactly` all of them, else those
      that are not ahead of it.
    - A new standing target supersedes those that it covers.

    Raises FleetfootError `conflict` when more releases are withdrawn than a document can name.
    """
    match effect:
        case Lift(digest):
            return replace(intent, withdrawn=tuple(d for d in intent.withdrawn if d != digest))
        case Withdraw(digest):
            return _withdrawn(intent, digest)
        case SetBaseline(goal):
            ahead = () if goal.mode == "exactly" else intent.standing
            kept = tuple(target for target in ahead if target.goal.counter > goal.counter)
            return replace(intent, baseline=goal, standing=kept)
        case Stand(target):
            others = (t for t in intent.standing if t.rollout != target.rollout and not _covers(target, t))
            return replace(intent, standing=(target, *others))
        case _:
            return intent


def _withdrawn(intent: GroupIntent, digest: str) -> GroupIntent:
    withdrawn = intent.withdrawn if digest in intent.withdrawn else (*intent.withdrawn, digest)
    if len(withdrawn) > MAX_WITHDRAWN:
        raise FleetfootError(
            "conflict",
            f"{MAX_WITHDRAWN} releases are withdrawn already and a document can name no more",
            remedy=f"lift one that nobody runs any more, the oldest being {intent.withdrawn[0]}",
        )
    baseline = intent.baseline
    return GroupIntent(
        baseline=None if baseline is not None and baseline.digest == digest else baseline,
        withdrawn=withdrawn,
        standing=tuple(target for target in intent.standing if target.goal.digest != digest),
    )


def _covers(new: Target, old: Target) -> bool:
    """Whether `new`, standing first, admits every device that `old` could, so that `old` is never reached."""
    every = new.stage_cut == admission.ALL and not new.exclude
    return every and new.selector.items() <= old.selector.items()


def desired(
    intent: GroupIntent,
    targets: Iterable[Target],
    *,
    fleet: str,
    group: str,
    component: str,
    epoch: int,
    sequence: int,
    issued: float,
    expires: float,
    mirror: str | None = None,
    hold: bool = False,
) -> Desired:
    """The group's document: `targets` of the live rollouts, newest first, before what stands.

    issued, expires: unix seconds, written without fractions; mirror: base URL; hold: nobody begins anything,
    be it a target or the baseline. A baseline that is withdrawn
    is left out. Raises FleetfootError `conflict` for a target whose release is withdrawn, and for a ninth
    target, naming the standing ones.
    """
    live = tuple(targets)
    ids = {target.rollout for target in live}
    every = (*live, *(target for target in intent.standing if target.rollout not in ids))
    for target in every:
        if target.goal.digest in intent.withdrawn:
            raise FleetfootError("conflict", f"the release of rollout {target.rollout} is withdrawn")
    if len(every) > MAX_TARGETS:
        standing = ", ".join(target.rollout for target in intent.standing) or "none"
        raise FleetfootError(
            "conflict",
            f"group {group} has {MAX_TARGETS} targets for {component} already; standing: {standing}",
            remedy="complete an unrestricted rollout over the group, which supersedes older standing targets",
        )
    baseline = intent.baseline
    return Desired(
        fleet=fleet,
        group=group,
        component=component,
        epoch=epoch,
        sequence=sequence,
        issued=times.to_text(issued),
        expires=times.to_text(expires),
        mirror=mirror,
        targets=every,
        baseline=None if baseline is not None and baseline.digest in intent.withdrawn else baseline,
        withdrawn=intent.withdrawn,
        hold=hold,
    )
