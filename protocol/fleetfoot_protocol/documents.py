"""The signed documents of a release and its desired state, and how documents are read and written.

Models are frozen and strict; unknown fields are refused. A document is always parsed from the exact bytes
that were verified (contract section 2). Reports of devices and managers are in `reports`.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fleetfoot_protocol import strictjson, times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError
from fleetfoot_protocol.fields import (
    Channel,
    Cut,
    Digest,
    Id,
    Label,
    LabelKey,
    Notes,
    Positive,
    Salt,
    Time,
    Uint,
    Url,
    Version,
    Word,
)

#: The highest specification this code understands.
SPEC = 1
MAX_INDEX_ENTRIES = 2048
MAX_TARGETS = 8
MAX_WITHDRAWN = 64
MAX_LISTED = 500


class Model(BaseModel):
    """Base of everything on the wire: strict, frozen, no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Document(Model):
    """Base of whole documents. `spec` is the specification they follow."""

    spec: Annotated[int, Field(ge=1, le=SPEC)] = SPEC

    def payload(self) -> bytes:
        """The bytes that are signed or published: absent options are left out, keys sorted."""
        return strictjson.dumps(self.model_dump(mode="json", exclude_none=True))


D = TypeVar("D", bound=Document)


def read(kind: type[D], payload: bytes) -> D:
    """Parse verified `payload` as a document of `kind`.

    Raises `FormError`: `upgrade_malformed`, `upgrade_too_large`, or `upgrade_spec_unsupported` for a
    document of a higher specification, whatever else stands in it.
    """
    value = strictjson.loads(payload)
    if not isinstance(value, dict):
        raise FormError(Code.UPGRADE_MALFORMED, "not an object")
    spec = value.get("spec")
    if type(spec) is int and spec > SPEC:
        raise FormError(Code.UPGRADE_SPEC_UNSUPPORTED, f"specification {spec}, this agent understands {SPEC}")
    if "spec" not in value:
        raise FormError(Code.UPGRADE_MALFORMED, "spec is missing")
    try:
        return kind.model_validate_json(payload, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # The place names keys as they came.
        where = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:100]
        raise FormError(Code.UPGRADE_MALFORMED, f"{where or 'document'}: {first['msg'][:200]}") from None
    except (ValueError, RecursionError) as error:
        raise FormError(Code.UPGRADE_MALFORMED, str(error)[:200]) from None


def expired(expires: str, now: int) -> bool:
    """Whether `expires` (wire time) lies at or before `now` (unix seconds)."""
    return times.from_text(expires) <= now


class Artifact(Model):
    """One artifact of a release: lengths in bytes, digests as sha256 hex, sources as base URLs."""

    os: Word
    arch: Word
    libc: Word | None = None
    abi: Word | None = None
    hw: Annotated[tuple[Label, ...], Field(max_length=64)] = ()
    format: Literal["tar.gz", "tar.zst"]
    length: Positive
    sha256: Digest
    chunk_size: Annotated[int, Field(ge=4096, le=16 * 1024 * 1024)]
    index_sha256: Digest
    unpacked_size: Uint
    member_count: Annotated[int, Field(ge=1, le=100_000)]
    tree_sha256: Digest
    entrypoint: Annotated[
        str,
        StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*$"),
    ]
    sources: Annotated[tuple[Url, ...], Field(max_length=8)] = ()
    deltas: Annotated[tuple[()], Field(max_length=0)] = ()

    @property
    def chunks(self) -> int:
        """How many chunks the artifact has; its index is 32 bytes for each."""
        return -(-self.length // self.chunk_size)

    @property
    def index_length(self) -> int:
        """Length of the index blob in bytes."""
        return 32 * self.chunks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chunks > MAX_INDEX_ENTRIES:
            raise ValueError(f"more than {MAX_INDEX_ENTRIES} chunks: choose a larger chunk_size")
        if any(part in (".", "..") for part in self.entrypoint.split("/")):
            raise ValueError("entrypoint must stay inside the artifact")
        return self


class Release(Document):
    """A release manifest: immutable, signed by release keys, named by the sha256 of its payload."""

    component: Id
    version: Version
    channel: Channel
    counter: Positive
    min_counter: Uint = 0
    min_agent: Version = "0.1.0"
    notes: Notes = ""
    created: Time
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_counter > self.counter:
            raise ValueError("min_counter beyond counter: the release would be below its own floor")
        places = [(a.os, a.arch, a.libc, a.abi, a.hw) for a in self.artifacts]
        if len(set(places)) != len(places):
            raise ValueError("two artifacts for the same platform")
        return self


class Goal(Model):
    """What should run: a release by digest. `length` is the artifact's largest length in bytes."""

    version: Version
    counter: Positive
    digest: Digest
    length: Uint
    attempt: Positive = 1
    mode: Literal["at_least", "exactly"] = "at_least"


class Target(Model):
    """A rollout as devices see it: the goal, who is meant, and how far it may go."""

    rollout: Id
    goal: Goal
    selector: Annotated[dict[LabelKey, Label], Field(max_length=16)] = {}
    include: tuple[Id, ...] = ()
    exclude: tuple[Id, ...] = ()
    salt: Salt
    stage_cut: Cut
    activate_cut: Cut
    hold: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.include) + len(self.exclude) > MAX_LISTED:
            raise ValueError(f"more than {MAX_LISTED} ids listed")
        # 'a' sorts after every hex digit except b-f, so 'all' is compared apart.
        if self.stage_cut != "all" and (self.activate_cut == "all" or self.activate_cut > self.stage_cut):
            raise ValueError("activate_cut beyond stage_cut")
        return self


class Desired(Document):
    """The desired state of a group, or with `device` of one device, for one component."""

    fleet: Id
    group: Id
    device: Id | None = None
    component: Id
    epoch: Positive
    sequence: Positive
    issued: Time
    expires: Time
    mirror: Url | None = None
    targets: Annotated[tuple[Target, ...], Field(max_length=MAX_TARGETS)] = ()
    baseline: Goal | None = None
    withdrawn: Annotated[tuple[Digest, ...], Field(max_length=MAX_WITHDRAWN)] = ()
    hold: bool = False
    released: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, sequence): the greater is the newer."""
        return self.epoch, self.sequence

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        goals = [t.goal for t in self.targets] + ([self.baseline] if self.baseline else [])
        if any(goal.digest in self.withdrawn for goal in goals):
            raise ValueError("a goal is withdrawn")
        rollouts = [t.rollout for t in self.targets]
        if len(set(rollouts)) != len(rollouts):
            raise ValueError("two targets of the same rollout")
        return self


class Order(Model):
    """The newest (epoch, sequence) of a document."""

    epoch: Positive
    sequence: Positive


class Heartbeat(Document):
    """Proof of freshness: the newest order of each component's group document."""

    fleet: Id
    group: Id
    issued: Time
    expires: Time
    components: Annotated[dict[Id, Order], Field(max_length=256)]


class Probe(Document):
    """A preflight question: what would you answer to this goal? Changes nothing on a device."""

    fleet: Id
    group: Id
    component: Id
    id: Id
    goal: Goal
    issued: Time
    expires: Time
