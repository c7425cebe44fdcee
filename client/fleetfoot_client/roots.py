"""Making and reading trust roots: who may sign what, before a device or a manager ever sees it.

The rules of roots are `fleetfoot_protocol.trust`; this module writes documents that keep them and says
which signatures are still missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from fleetfoot_client import files
from fleetfoot_protocol import dsse, keys, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.dsse import Envelope, PayloadType
from fleetfoot_protocol.errors import FleetfootError, TrustError
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.trust import Operator, RoleKeys, Roles, TrustRoot

#: Group (or `*`) -> roles.
Grants = Mapping[str, tuple[Role, ...]]


@dataclass(frozen=True, slots=True)
class Member:
    """An operator to be: a raw public key and its roles by group."""

    public: bytes
    grants: Grants


@dataclass(frozen=True, slots=True)
class Additions:
    """What a root's successor has more. A threshold or expiry of None stays as it is."""

    root_keys: tuple[bytes, ...] = ()
    release_keys: tuple[bytes, ...] = ()
    operators: Mapping[str, Member] = field(default_factory=dict)
    root_threshold: int | None = None
    release_threshold: int | None = None
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a root's successor has instead: key id -> raw public key, or None for a key that goes for good.

    operators: names that go. A threshold or expiry of None stays as it is.
    """

    replaced: Mapping[str, bytes | None] = field(default_factory=dict)
    operators: frozenset[str] = frozenset()
    root_threshold: int | None = None
    release_threshold: int | None = None
    expires: str | None = None


def build(
    fleet: str,
    expires: str,
    *,
    root: tuple[Iterable[bytes], int],
    release: tuple[Iterable[bytes], int],
    director: bytes,
    operators: Mapping[str, Member],
) -> TrustRoot:
    """Version 1 of a root, not signed yet. `root` and `release` are raw public keys and a threshold.

    FleetfootError `request_invalid` names what cannot be so.
    """
    root_keys, release_keys = list(root[0]), list(release[0])
    members = [member.public for member in operators.values()]
    try:
        return TrustRoot(
            version=1,
            epoch=1,
            fleet=fleet,
            expires=expires,
            keys=_named([*root_keys, *release_keys, director, *members]),
            roles=Roles(
                root=_role(root_keys, root[1]),
                release=_role(release_keys, release[1]),
                director=_role([director], 1),
                operators={name: _operator(member) for name, member in operators.items()},
            ),
        )
    except ValidationError as error:
        raise _invalid(error) from None


def successor(have: TrustRoot, more: Additions) -> TrustRoot:
    """The next version of `have` with `more` in it, not signed yet. FleetfootError `request_invalid`."""
    operators = dict(have.roles.operators)
    for name, member in more.operators.items():
        operators[name] = _merged(name, operators.get(name), member)
    added = [*more.root_keys, *more.release_keys, *(member.public for member in more.operators.values())]
    try:
        return TrustRoot(
            version=have.version + 1,
            epoch=have.epoch,
            fleet=have.fleet,
            expires=more.expires or have.expires,
            keys={**have.keys, **_named(added)},
            roles=Roles(
                root=_wider(have.roles.root, more.root_keys, more.root_threshold),
                release=_wider(have.roles.release, more.release_keys, more.release_threshold),
                director=have.roles.director,
                operators=operators,
            ),
        )
    except ValidationError as error:
        raise _invalid(error) from None


def rotated(have: TrustRoot, change: Rotation) -> TrustRoot:
    """The next version of `have` with other keys in every role, not signed yet. Keys without a role go.

    The epoch rises if director keys change. FleetfootError `not_found` for what is not there to be replaced,
    `request_invalid` for what cannot be.
    """
    operators = {name: one for name, one in have.roles.operators.items() if name not in change.operators}
    named = {*have.roles.root.keys, *have.roles.release.keys, *have.roles.director.keys}
    named |= {one.key for one in operators.values()}
    if unknown := sorted((change.replaced.keys() - named) | (change.operators - have.roles.operators.keys())):
        raise FleetfootError("not_found", f"root {have.version} gives no role to {unknown[0]}")
    for name, one in operators.items():
        if change.replaced.get(one.key, b"") is None:
            raise FleetfootError(
                "request_invalid",
                f"operator {name} cannot be without a key",
                remedy=f"remove the operator: --remove-operator {name}",
            )
    roles = Roles.model_construct(
        root=_other(have.roles.root, change.replaced, change.root_threshold),
        release=_other(have.roles.release, change.replaced, change.release_threshold),
        director=_other(have.roles.director, change.replaced, None),
        operators={
            name: Operator(key=_other_id(one.key, change.replaced), roles=one.roles)
            for name, one in operators.items()
        },
    )
    every = {**have.keys, **_named(new for new in change.replaced.values() if new is not None)}
    used = {*roles.root.keys, *roles.release.keys, *roles.director.keys}
    used |= {one.key for one in roles.operators.values()}
    try:
        return TrustRoot(
            version=have.version + 1,
            epoch=have.epoch + (roles.director.keys != have.roles.director.keys),
            fleet=have.fleet,
            expires=change.expires or have.expires,
            keys={name: every[name] for name in sorted(used)},
            roles=roles,
        )
    except ValidationError as error:
        raise _invalid(error) from None


def chain(paths: Iterable[Path]) -> list[TrustRoot]:
    """The roots in these files, by version: devices would follow each of them to the next.

    TrustError naming the file at which the chain breaks; FormError; FleetfootError `not_found`.
    """
    files_of = sorted(((load(path)[1].version, path) for path in paths), key=lambda item: item[0])
    found: list[TrustRoot] = []
    for _, path in files_of:
        if not found:
            found.append(load_valid(path))
            continue
        try:
            found.append(trust.advance_root(found[-1], files.read(path, dsse.MAX_ENVELOPE)))
        except TrustError as error:
            raise TrustError(
                error.upgrade_code, f"{path} does not continue root {found[-1].version}: {error.message}"
            ) from error
    return found


def load(path: Path) -> tuple[Envelope, TrustRoot]:
    """The envelope in a file and the root in it, whether validly signed or not.

    FormError or TrustError if the file holds no root.
    """
    envelope = dsse.decode(files.read(path, dsse.MAX_ENVELOPE))
    if envelope.payload_type != PayloadType.ROOT:
        raise TrustError(Code.UPGRADE_TYPE_MISMATCH, f"{path} holds no trust root")
    return envelope, read(TrustRoot, envelope.payload)


def load_valid(path: Path) -> TrustRoot:
    """The root in a file, which must meet its own threshold. TrustError, FormError."""
    try:
        return trust.first_root(files.read(path, dsse.MAX_ENVELOPE), str(path))
    except TrustError as error:
        raise TrustError(
            error.upgrade_code,
            f"the trust root {path} cannot be relied on: {error.message}",
            remedy=f"look at it with 'fleetfoot trust show {path}'",
        ) from error


def signers(envelope: Envelope, public: Mapping[str, str]) -> list[str]:
    """Ids of the keys (id -> hex) that validly signed the envelope, in order."""
    message = dsse.pae(envelope.payload_type, envelope.payload)
    return sorted(
        key
        for key, text in public.items()
        if any(keys.verify(bytes.fromhex(text), message, signature.sig) for signature in envelope.signatures)
    )


def missing(envelope: Envelope, root: TrustRoot, previous: TrustRoot | None = None) -> list[str]:
    """Which signatures the root in `envelope` still needs, as sentence parts; empty if none.

    With `previous`, the thresholds of that version count too.
    """
    found = []
    for judge in (previous, root):
        if judge is None:
            continue
        role = judge.roles.root
        have = len(set(signers(envelope, judge.keys)) & set(role.keys))
        if have < role.threshold:
            found.append(f"{have} of {role.threshold} signatures that root {judge.version} demands")
    return found


def _named(publics: Iterable[bytes]) -> dict[str, str]:
    return {keys.key_id(public): public.hex() for public in publics}


def _role(publics: list[bytes], threshold: int) -> RoleKeys:
    return RoleKeys(keys=tuple(keys.key_id(public) for public in publics), threshold=threshold)


def _wider(have: RoleKeys, publics: Iterable[bytes], threshold: int | None) -> RoleKeys:
    added = [keys.key_id(public) for public in publics]
    if doubled := sorted(set(added) & set(have.keys)):
        raise FleetfootError("exists_already", f"key {doubled[0]} has that role already")
    return RoleKeys(keys=(*have.keys, *added), threshold=have.threshold if threshold is None else threshold)


def _other_id(name: str, replaced: Mapping[str, bytes | None]) -> str:
    new = replaced.get(name)
    return name if new is None else keys.key_id(new)


def _other(have: RoleKeys, replaced: Mapping[str, bytes | None], threshold: int | None) -> RoleKeys:
    left = [name for name in have.keys if replaced.get(name, b"") is not None]
    try:
        return RoleKeys(
            keys=tuple(_other_id(name, replaced) for name in left),
            threshold=have.threshold if threshold is None else threshold,
        )
    except ValidationError as error:
        raise _invalid(error) from None


def _operator(member: Member) -> Operator:
    return Operator(key=keys.key_id(member.public), roles=dict(member.grants))


def _merged(name: str, have: Operator | None, member: Member) -> Operator:
    """The operator with more roles. Another key under the same name would silently replace a person."""
    if have is None:
        return _operator(member)
    if have.key != keys.key_id(member.public):
        raise FleetfootError(
            "exists_already",
            f"operator {name} is there with the key {have.key}",
            remedy="choose another operator name for the new key",
        )
    grants = {group: (*have.roles.get(group, ()), *roles) for group, roles in member.grants.items()}
    merged = {**have.roles, **grants}
    return Operator(key=have.key, roles={g: tuple(dict.fromkeys(r)) for g, r in merged.items()})


def _invalid(error: ValidationError) -> FleetfootError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return FleetfootError(
        "request_invalid",
        f"no such trust root can be: {where + ': ' if where else ''}{message}",
        remedy="correct the named argument and try again",
    )
