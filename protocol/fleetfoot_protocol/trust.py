"""Who may sign what: the trust root, its chain, and verification against it (contract section 3).

Rules: thresholds count distinct keys; root n+1 must be signed by the thresholds of n and of n+1 and is
exactly one version higher; nothing but a chain replaces a root. Pure: whoever calls brings bytes and time.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from fleetfoot_protocol import dsse, keys
from fleetfoot_protocol.auditchain import AuditHead
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Document, Heartbeat, Model, Probe, Release, read
from fleetfoot_protocol.dsse import Envelope, PayloadType
from fleetfoot_protocol.errors import FormError, TrustError
from fleetfoot_protocol.fields import Id, KeyHex, Positive, Time
from fleetfoot_protocol.reports import Reply, Request, RolloutProgress, Status
from fleetfoot_protocol.states import RIGHTS, Right, Role

# On the wire plain strings; strict models take enum members or exactly their strings.
RoleField = Annotated[Role, Field(strict=False)]
RoleName = Literal["root", "release", "director"]
MAX_CHAIN = 256


class RoleKeys(Model):
    """The keys of a role and how many distinct ones must sign."""

    keys: Annotated[tuple[Id, ...], Field(min_length=1, max_length=32)]
    threshold: Annotated[int, Field(ge=1, le=32)]


class Operator(Model):
    """An operator's key and roles by group; `*` stands for every group."""

    key: Id
    roles: Annotated[
        dict[Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,62}|\*)$")], tuple[RoleField, ...]],
        Field(max_length=256),
    ]


class Roles(Model):
    """All roles of a root."""

    root: RoleKeys
    release: RoleKeys
    director: RoleKeys
    operators: Annotated[dict[Id, Operator], Field(max_length=256)] = {}


class TrustRoot(Document):
    """Binds keys to roles for one fleet."""

    version: Positive
    epoch: Positive
    fleet: Id
    expires: Time
    keys: Annotated[dict[Id, KeyHex], Field(min_length=1, max_length=512)]
    roles: Roles

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.keys.values())) != len(self.keys):
            raise ValueError("two ids for the same key: it would count twice")
        named: set[str] = {operator.key for operator in self.roles.operators.values()}
        for role in (self.roles.root, self.roles.release, self.roles.director):
            named.update(role.keys)
            if len(set(role.keys)) != len(role.keys) or role.threshold > len(role.keys):
                raise ValueError("a role has a key twice or a threshold beyond its keys")
        if not named <= set(self.keys):
            raise ValueError("a role names a key that is not in keys")
        return self

    def role(self, name: RoleName) -> RoleKeys:
        """Keys and threshold of a role."""
        roles: dict[RoleName, RoleKeys] = {
            "root": self.roles.root,
            "release": self.roles.release,
            "director": self.roles.director,
        }
        return roles[name]

    def may(self, operator: str, right: Right, group: str) -> bool:
        """Whether `operator` has `right` in `group` (`*` asks for every group)."""
        entry = self.roles.operators.get(operator)
        if entry is None:
            return False
        held = set(entry.roles.get("*", ())) | set(entry.roles.get(group, ()))
        return bool(held & RIGHTS[right])


def _signers(
    envelope: Envelope, public: dict[str, bytes], others: dict[str, bytes] | None = None
) -> set[str]:
    """Ids of those keys of `public` that validly signed; ids in the envelope are only hints.

    others: keys that are tried for a signature that names them, and for no other: a fleet has many keys, and
    whoever can write a signature of garbage must not make a device try them all.
    """
    message = dsse.pae(envelope.payload_type, envelope.payload)
    found: set[str] = set()
    for signature in envelope.signatures:
        # The hinted key first, then the others: a wrong hint costs time, never the verdict.
        candidates = dict(sorted(public.items(), key=lambda item: item[0] != signature.keyid))
        if others and signature.keyid in others:
            candidates[signature.keyid] = others[signature.keyid]
        hit = next(
            (k for k, v in candidates.items() if k not in found and keys.verify(v, message, signature.sig)),
            None,
        )
        if hit is not None:
            found.add(hit)
    return found


def _demand_type(envelope: Envelope, kind: PayloadType) -> None:
    if envelope.payload_type != kind:
        raise TrustError(Code.UPGRADE_TYPE_MISMATCH, f"signed as {envelope.payload_type[:80]!a}, not {kind}")


def verify_keys(envelope: Envelope, kind: PayloadType, root: TrustRoot, role: RoleKeys) -> bytes:
    """The payload, if `role`'s threshold of distinct keys signed it as `kind`; else `TrustError`."""
    _demand_type(envelope, kind)
    every = {k: bytes.fromhex(v) for k, v in root.keys.items()}
    signers = _signers(envelope, {k: every[k] for k in role.keys}, every)
    valid = signers & set(role.keys)
    if not signers:
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "no valid signature of a known key")
    if not valid:
        raise TrustError(Code.UPGRADE_IDENTITY_NOT_ALLOWED, "signed by a key without the right to")
    if len(valid) < role.threshold:
        raise TrustError(Code.UPGRADE_THRESHOLD_NOT_MET, f"{len(valid)} of {role.threshold} keys signed")
    return envelope.payload


def verify_release(data: bytes, root: TrustRoot) -> tuple[Release, str]:
    """A release manifest from its envelope bytes, and its digest."""
    envelope = dsse.decode(data)
    return read(
        Release, verify_keys(envelope, PayloadType.RELEASE, root, root.role("release"))
    ), envelope.digest


Directed = TypeVar("Directed", Desired, Heartbeat, Probe)


def _directed(data: bytes, kind: PayloadType, model: type[Directed], root: TrustRoot) -> Directed:
    document = read(model, verify_keys(dsse.decode(data), kind, root, root.role("director")))
    if document.fleet != root.fleet:
        raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for fleet {document.fleet}")
    return document


def verify_desired(data: bytes, root: TrustRoot) -> Desired:
    """A desired state of this fleet; group, device and component are the caller's to compare."""
    document = _directed(data, PayloadType.DESIRED, Desired, root)
    if document.epoch != root.epoch:
        raise TrustError(Code.UPGRADE_SEQUENCE_REPLAYED, f"epoch {document.epoch}, the root has {root.epoch}")
    return document


def verify_heartbeat(data: bytes, root: TrustRoot) -> Heartbeat:
    """A heartbeat of this fleet."""
    return _directed(data, PayloadType.HEARTBEAT, Heartbeat, root)


def verify_probe(data: bytes, root: TrustRoot) -> Probe:
    """A probe of this fleet."""
    return _directed(data, PayloadType.PROBE, Probe, root)


def verify_request(data: bytes, root: TrustRoot) -> tuple[Request, str]:
    """An operator's request, signed by the key that the root binds to that operator; and its digest."""
    envelope = dsse.decode(data)
    if envelope.payload_type != PayloadType.REQUEST:
        raise TrustError(Code.UPGRADE_TYPE_MISMATCH, "not a request")
    public = {k: bytes.fromhex(v) for k, v in root.keys.items()}
    if not (signers := _signers(envelope, public)):
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "no valid signature of a known key")
    request = read(Request, envelope.payload)
    operator = root.roles.operators.get(request.operator)
    if operator is None or operator.key not in signers:
        raise TrustError(Code.UPGRADE_IDENTITY_NOT_ALLOWED, f"not signed by operator {request.operator}")
    if request.fleet != root.fleet:
        raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for fleet {request.fleet}")
    return request, envelope.digest


def verify_reply(data: bytes, root: TrustRoot) -> Reply:
    """A manager's reply."""
    reply = read(Reply, verify_keys(dsse.decode(data), PayloadType.REPLY, root, root.role("director")))
    if reply.fleet != root.fleet:
        raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for fleet {reply.fleet}")
    return reply


def verify_audit_head(data: bytes, root: TrustRoot) -> AuditHead:
    """The signed length and last hash of a manager's audit log."""
    payload = verify_keys(dsse.decode(data), PayloadType.AUDIT, root, root.role("director"))
    head = read(AuditHead, payload)
    if head.fleet != root.fleet:
        raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for fleet {head.fleet}")
    return head


def verify_progress(payload: bytes, attestation: bytes, root: TrustRoot) -> RolloutProgress:
    """A rollout's progress with its detached signature of the director. The counter outside is unsigned."""
    envelope, _ = dsse.join_attestation(payload, attestation)
    progress = read(RolloutProgress, verify_keys(envelope, PayloadType.ROLLOUT, root, root.role("director")))
    if progress.fleet != root.fleet:
        raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for fleet {progress.fleet}")
    return progress


def verify_status(payload: bytes, attestation: bytes, public: bytes) -> Status:
    """A device's status, attested by the key under which the device is enrolled."""
    envelope, counter = dsse.join_attestation(payload, attestation)
    if envelope.payload_type != PayloadType.STATUS:
        raise TrustError(Code.UPGRADE_TYPE_MISMATCH, "not the attestation of a status")
    if not _signers(envelope, {"device": public}):
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "not signed with the device's key")
    status = read(Status, payload)
    if status.counter != counter:
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "the attestation names another counter")
    return status


def first_root(data: bytes, where: str = "") -> TrustRoot:
    """A root that came with a package or enrolment: it must meet its own root threshold.

    where: what it was read from, named by the `FormError` for what is no root at all.
    """
    try:
        envelope = dsse.decode(data)
        # Before it is read: a release given for a root is named as such.
        _demand_type(envelope, PayloadType.ROOT)
        root = read(TrustRoot, envelope.payload)
    except FormError as error:
        if not where:
            raise
        raise FormError(error.upgrade_code, f"{where} holds no trust root: {error.message}") from error
    verify_keys(envelope, PayloadType.ROOT, root, root.role("root"))
    return root


def advance_root(have: TrustRoot, data: bytes) -> TrustRoot:
    """The root after `have`, from the envelope of version ``have.version + 1``.

    Raises `TrustError` (`upgrade_root_refused`) if it is not exactly the next version of the same fleet,
    signed by the root thresholds of both, or if director keys changed without a higher epoch; `FormError`
    (`upgrade_spec_unsupported`) for one that the present keys signed under a higher specification.
    """
    try:
        envelope = dsse.decode(data)
        new = read(TrustRoot, verify_keys(envelope, PayloadType.ROOT, have, have.role("root")))
        verify_keys(envelope, PayloadType.ROOT, new, new.role("root"))
    except (TrustError, FormError) as error:
        if error.upgrade_code is Code.UPGRADE_SPEC_UNSUPPORTED:
            raise
        raise TrustError(Code.UPGRADE_ROOT_REFUSED, error.message) from error
    if new.fleet != have.fleet or new.version != have.version + 1 or new.epoch < have.epoch:
        raise TrustError(
            Code.UPGRADE_ROOT_REFUSED,
            f"root {new.version} of {new.fleet} does not follow root {have.version}",
        )
    old_director = {have.keys[k] for k in have.roles.director.keys}
    new_director = {new.keys[k] for k in new.roles.director.keys}
    if old_director != new_director and new.epoch == have.epoch:
        raise TrustError(Code.UPGRADE_ROOT_REFUSED, "director keys changed, but epoch did not rise")
    return new
