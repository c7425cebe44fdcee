"""What a rollout asks of the world: a closed union of small values that are stored before they are done.

The shell applies them in the order given: first those that change a group's standing intent (`Lift`,
`Withdraw`, `SetBaseline`, `Stand`; see `compose.applied`), then what is published. All are idempotent: doing
one twice, as after a crash, does no harm.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Target
from fleetfoot_protocol.events import Event


@dataclass(frozen=True, slots=True)
class Lift:
    """The digest leaves `withdrawn` of the rollout's groups: somebody starts that release again."""

    digest: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The digest enters `withdrawn` of the rollout's groups; whoever runs it returns."""

    digest: str


@dataclass(frozen=True, slots=True)
class SetBaseline:
    """The goal becomes the baseline of the rollout's groups."""

    goal: Goal


@dataclass(frozen=True, slots=True)
class Stand:
    """The target of a restricted rollout stays in its groups' documents until superseded."""

    target: Target


@dataclass(frozen=True, slots=True)
class PublishDesired:
    """The groups' desired states are composed anew, signed, stored, then published."""


@dataclass(frozen=True, slots=True)
class PublishProgress:
    """The rollout's progress is published. May be put together with a later one: only the newest counts."""


@dataclass(frozen=True, slots=True)
class Emit:
    """An event of the rollout; `data` is JSON, `code` stands where something failed."""

    event: Event
    data: dict[str, Any] = field(default_factory=dict)
    code: Code | None = None


Effect: TypeAlias = Lift | Withdraw | SetBaseline | Stand | PublishDesired | PublishProgress | Emit

#: Every effect by the name it is stored under, in the order in which effects of one act are applied.
KINDS: dict[str, type[Effect]] = {
    "lift": Lift,
    "withdraw": Withdraw,
    "set_baseline": SetBaseline,
    "stand": Stand,
    "publish_desired": PublishDesired,
    "publish_progress": PublishProgress,
    "emit": Emit,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
_RANK = {kind: rank for rank, kind in enumerate(KINDS.values())}


def ordered(effects: list[Effect]) -> tuple[Effect, ...]:
    """Intent before documents before progress before events; each kind of publishing at most once."""
    unique: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Emit) or effect not in unique:
            unique.append(effect)
    return tuple(sorted(unique, key=lambda effect: _RANK[type(effect)]))


def to_json(effect: Effect) -> dict[str, Any]:
    """The effect as JSON values, with its name under `effect`."""
    body: dict[str, Any] = {"effect": _NAMES[type(effect)]}
    match effect:
        case Lift(digest) | Withdraw(digest):
            body["digest"] = digest
        case SetBaseline(goal):
            body["goal"] = goal.model_dump(mode="json")
        case Stand(target):
            body["target"] = target.model_dump(mode="json")
        case Emit(event, data, code):
            body |= {"event": str(event), "data": data, "code": None if code is None else str(code)}
        case PublishDesired() | PublishProgress():
            pass
    return body


def from_json(body: dict[str, Any]) -> Effect:
    """The effect that `to_json` wrote. Raises KeyError or ValueError for anything else."""
    kind = KINDS[body["effect"]]
    if kind is Lift or kind is Withdraw:
        return kind(body["digest"])
    if kind is SetBaseline:
        return SetBaseline(Goal.model_validate(body["goal"]))
    if kind is Stand:
        # Lists of JSON are tuples of the model: only the JSON mode of validation takes one for the other.
        return Stand(Target.model_validate(body["target"], strict=False))
    if kind is Emit:
        code = body["code"]
        return Emit(Event(body["event"]), body["data"], None if code is None else Code(code))
    return PublishDesired() if kind is PublishDesired else PublishProgress()
