"""What the agent must not forget about one component, as its journal keeps it."""

from typing import Annotated, Literal

from pydantic import Field

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Model
from fleetfoot_protocol.fields import Digest, Id, Positive, Uint
from fleetfoot_protocol.reports import (
    MAX_CHECKS,
    MAX_OUTCOMES,
    MAX_REFUSED,
    CheckResult,
    Installed,
    LifecycleField,
    OutcomeRecord,
    Problem,
)
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle

ActField = Annotated[Act, Field(strict=False)]
CodeField = Annotated[Code, Field(strict=False)]


class Work(Model):
    """What is being done: the goal, on whose order, in which tree, and the tree to go back to.

    `min_counter` is the release's, raised into the floor at commit; `cause` is why it is being undone;
    `told` marks a stage-only order whose end was reported.
    """

    act: ActField
    goal: Goal
    rollout: Id | None = None
    name: str
    old: str | None = None
    min_counter: Uint = 0
    cause: CodeField | None = None
    cause_text: str = ""
    told: bool = False


class Retry(Model):
    """When work on a digest that failed transiently may begin again: unix seconds."""

    digest: Digest
    attempt: Positive
    tries: Positive
    at: Uint


class Record(Model):
    """All that the agent must not forget about one component; the journal is exactly this."""

    journal: Literal[1] = 1
    state: LifecycleField = Lifecycle.IDLE
    run: Installed | None = None
    prev: Installed | None = None
    floor: Uint = 0
    refused: Annotated[dict[Digest, Positive], Field(max_length=MAX_REFUSED)] = {}
    work: Work | None = None
    outcomes: Annotated[tuple[OutcomeRecord, ...], Field(max_length=MAX_OUTCOMES)] = ()
    last_error: Problem | None = None
    retry: Retry | None = None
    checks: Annotated[tuple[CheckResult, ...], Field(max_length=MAX_CHECKS)] = ()
