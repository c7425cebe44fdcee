"""The arguments of the verbs about rollouts, as strict models; of all others: `arguments`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from fleetfoot_manager.requests.arguments import DAY, MAX_PAGE
from fleetfoot_protocol.documents import MAX_LISTED, Model
from fleetfoot_protocol.fields import Digest, Id, Label, LabelKey, Line, Notes, Version, Word

MAX_GROUPS = 64

Wave = (
    Annotated[int, Field(ge=1, le=10_000_000)]
    | Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]?|100)%$")]
)


Percent = Annotated[int, Field(ge=1, le=100)]
Breaker = Annotated[int, Field(ge=0, le=1_000_000)]
Seconds = Annotated[int, Field(ge=0, le=30 * DAY)]


class RolloutPlan(Model):
    """`rollout.plan` and `rollout.start`; times in seconds. `waves`: cumulative counts or shares.

    `devices`: the cohort by name, of whatever groups if none is said. `immediate`: one wave with everybody.
    `batch_pct`, `batch_size`, `batch_delay_seconds`: batches. `canaries`: the first wave by name. `stage`:
    everybody stages first; "only" goes no further until `rollout.activate`. `breaker`: failures that trip
    the rollout, for batches those in a row; 0 for never. `failure_percent`: of those asked, more failures
    trip. `offline`: whether who is offline when asked is waited for. `priority`: of two rollouts over the
    same devices, the higher counts. `ttl`: after which it expires. `supersede`: what is under way for the
    component in these groups ends.
    """

    component: Id
    version: Version
    groups: Annotated[tuple[Id, ...], Field(max_length=MAX_GROUPS)] = ()
    devices: Annotated[tuple[Id, ...], Field(max_length=MAX_LISTED)] = ()
    selector: Annotated[dict[LabelKey, Label], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies
    strategy: Literal["immediate", "waves", "batches"] | None = None
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=64)] | None = None
    immediate: bool = False
    batch_pct: Percent | None = None
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    batch_delay_seconds: Seconds | None = None
    canaries: Annotated[tuple[Id, ...], Field(max_length=MAX_LISTED)] = ()
    stage: Literal["first", "only"] | None = None
    settle: Seconds | None = None
    device_timeout: Annotated[int, Field(ge=1, le=30 * DAY)] | None = None
    mode: Literal["at_least", "exactly"] = "at_least"
    breaker: Breaker | None = None
    failure_percent: Percent | None = None
    min_successes: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    offline: Literal["wait", "skip"] = "wait"
    approve_each_wave: bool = False
    priority: Annotated[int, Field(ge=0, le=100)] = 0
    ttl: Annotated[int, Field(ge=1, le=365 * DAY)] | None = None
    supersede: bool = False

    @property
    def at_once(self) -> bool:
        """Whether everybody is asked at once."""
        return self.immediate or self.strategy == "immediate"

    @property
    def batched(self) -> bool:
        """Whether anything was said of batches."""
        return any(one is not None for one in (self.batch_pct, self.batch_size, self.batch_delay_seconds))

    @model_validator(mode="after")
    def _consistent(self) -> "RolloutPlan":
        ways = {
            "immediate": self.at_once,
            "waves": self.waves is not None or self.strategy == "waves",
            "batches": self.batched or self.strategy == "batches",
        }
        said = [name for name, was in ways.items() if was]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} exclude each other")
        if self.batch_pct is not None and self.batch_size is not None:
            raise ValueError("batch_pct and batch_size exclude each other")
        if not self.groups and not self.devices:
            raise ValueError("neither groups nor devices are named")
        if self.devices and self.selector:
            raise ValueError("devices and a selector exclude each other")
        if self.devices and self.stage:
            raise ValueError(
                "devices named one by one are admitted by name, to staging and to activating at once: to"
                " stage first, name a group, with a selector of labels if it is not for all of it"
            )
        for name in ("groups", "devices", "canaries"):
            named = getattr(self, name)
            if len(set(named)) != len(named):
                raise ValueError(f"one of the {name} is named twice")
        return self


def _demand_one_pace(*paces: object) -> None:
    """Raise ValueError if more than one of waves, batch_pct and batch_size is said."""
    if sum(one is not None for one in paces) > 1:
        raise ValueError("waves, batch_pct and batch_size exclude each other")


class RolloutProbe(RolloutPlan):
    """`rollout.probe`: the fleet is asked what it would do; `deadline`: seconds in which answers count."""

    deadline: Annotated[int, Field(ge=1, le=DAY)] = 30


class RolloutAnswers(Model):
    """`rollout.answers`: to the probe `id`, of the devices that `rollout.probe` was about."""

    id: Id
    component: Id
    digest: Digest
    groups: Annotated[tuple[Id, ...], Field(max_length=MAX_GROUPS)] = ()
    devices: Annotated[tuple[Id, ...], Field(max_length=MAX_LISTED)] = ()
    selector: Annotated[dict[LabelKey, Label], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies

    @model_validator(mode="after")
    def _consistent(self) -> "RolloutAnswers":
        if not self.groups and not self.devices:
            raise ValueError("neither groups nor devices are named")
        if self.devices and self.selector:
            raise ValueError("devices and a selector exclude each other")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("one of the devices is named twice")
        return self


class RolloutList(Model):
    """`rollout.list`: newest first."""

    state: Literal["active", "all"] = "active"


class RolloutName(Model):
    """`rollout.show`, `pause`, `resume`, `activate`, `cancel`, `retry`."""

    rollout: Id


class RolloutDecide(Model):
    """`rollout.decide`: what becomes of a tripped rollout.

    `waves`, `batch_pct`, `batch_size`: with a rollback, it goes back in steps of those devices that moved.
    `leave_stranded`: also if some of them have no way back.
    """

    rollout: Id
    decision: Literal["continue", "rollback", "abort"]
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=64)] | None = None
    batch_pct: Percent | None = None
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    settle: Seconds | None = None
    leave_stranded: bool = False

    @property
    def paced(self) -> bool:
        """Whether it goes back in steps."""
        return self.waves is not None or self.batch_pct is not None or self.batch_size is not None

    @model_validator(mode="after")
    def _consistent(self) -> "RolloutDecide":
        if self.decision != "rollback" and (self.paced or self.settle is not None or self.leave_stranded):
            raise ValueError("only a rollback goes in steps, or leaves somebody behind")
        _demand_one_pace(self.waves, self.batch_pct, self.batch_size)
        if self.settle is not None and not self.paced:
            raise ValueError("settle is for a rollback in steps")
        return self


class RolloutApprove(Model):
    """`rollout.approve`: what is said takes the place of what was asked for, if it is gentler."""

    rollout: Id
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=64)] | None = None
    batch_pct: Percent | None = None
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    settle: Seconds | None = None
    breaker: Breaker | None = None
    failure_percent: Percent | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "RolloutApprove":
        _demand_one_pace(self.waves, self.batch_pct, self.batch_size)
        return self


class RolloutReject(Model):
    """`rollout.reject`."""

    rollout: Id
    reason: Annotated[Line, Field(min_length=1, max_length=90)]


class RolloutHistory(Model):
    """`rollout.history`: over the newest `limit` ended rollouts."""

    component: Id | None = None
    group: Id | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50


class RolloutNote(Model):
    """`rollout.note`."""

    rollout: Id
    title: Annotated[Line, Field(min_length=1, max_length=120)]
    category: Word = "note"
    tags: Annotated[tuple[Word, ...], Field(max_length=16)] = ()
    text: Notes = ""


class RolloutReport(Model):
    """`rollout.report`: devices behind the first `after` of the cohort."""

    rollout: Id
    after: Annotated[int, Field(ge=0)] = 0
