"""What `fleetfoot trust` is told: its options, how operators are written, the request of a manager."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fleetfoot_client import files, options, roots
from fleetfoot_client.options import Handler, Subparsers
from fleetfoot_protocol import strictjson
from fleetfoot_protocol.documents import Model
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Id, KeyHex
from fleetfoot_protocol.states import Role

#: The role of an operator for whom none is named: the first operator of a fleet must be able to act.
DEFAULT_ROLE = Role.ADMIN
EVERY_GROUP = "*"
#: A key's id as people write it.
KEY_ID = re.compile(r"[0-9a-f]{16}")
DEFAULT_DAYS = 3650


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """An operator as written on the command line; `key` is hex or a path."""

    name: str
    key: str
    grants: roots.Grants


class RootRequest(Model):
    """What a manager asks to be put into a root; written by `fleetfoot manager init`."""

    fleet: Id
    director: KeyHex
    operators: Annotated[dict[Id, KeyHex], Field(max_length=256)] = {}  # noqa: RUF012


def read_request(path: Path) -> RootRequest:
    """The request in a file. FleetfootError `config_invalid` if it is none."""
    data = files.read(path, strictjson.MAX_BYTES)
    strictjson.loads(data)
    try:
        return RootRequest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FleetfootError(
            "config_invalid",
            f"{path} is no request for a root: {where or 'document'}: {first['msg']}",
            remedy="name the root-request.json that 'fleetfoot manager init' wrote",
        ) from None


def operator(text: str) -> OperatorSpec:
    """`NAME=PUB[:ROLE[@GROUP][,...]]`; without roles: admin of every group."""
    name, key, roles = _split(text)
    return OperatorSpec(name, key, _grants(roles or DEFAULT_ROLE))


def operator_with_roles(text: str) -> OperatorSpec:
    """`NAME=PUB:ROLE[@GROUP][,...]`: into a root that exists, nobody comes as an admin by omission."""
    name, key, roles = _split(text)
    if not roles:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} names no role: NAME=PUB:ROLE[@GROUP][,...]")
    return OperatorSpec(name, key, _grants(roles))


def _split(text: str) -> tuple[str, str, str]:
    """Name, key and roles (empty if none are named)."""
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is not NAME=PUB[:ROLE[@GROUP][,...]]")
    key, colon, roles = rest.rpartition(":")
    if not colon or "/" in roles:  # a colon in the name of a folder is none of ours
        key, roles = rest, ""
    return options.identifier(name), key, roles


def _grants(text: str) -> roots.Grants:
    grants: dict[str, tuple[Role, ...]] = {}
    for part in text.split(","):
        role, _, group = part.partition("@")
        if role not in list(Role):
            raise argparse.ArgumentTypeError(f"{role[:40]!a} is no role: {', '.join(Role)}")
        group = group or EVERY_GROUP
        if group != EVERY_GROUP:
            options.identifier(group)
        grants[group] = (*grants.get(group, ()), Role(role))
    return grants


def add_init(group: Subparsers, handler: Handler) -> None:
    """`trust init`."""
    parser = options.add_command(
        group,
        "init",
        handler,
        "make the first trust root of a fleet",
        details="The root says which keys may sign releases, which key is the manager's (the director),\n"
        "and who the operators are. It is signed by the root keys, which then go into a safe.\n"
        "Roles: " + ", ".join(Role) + ".",
        example="fleetfoot trust init --request root-request.json --root-key root.key \\\n"
        "    --release-key release.key.pub --out root.json\n"
        "fleetfoot trust init --fleet kitchens --root-key root.key \\\n"
        "    --release-key a.pub --release-key b.pub --release-threshold 2 --director director.pub \\\n"
        "    --operator alice=alice.pub --operator bob=bob.pub:group-admin@ovens,viewer --out root.json",
    )
    parser.add_argument("--fleet", type=options.identifier, help="the fleet's name")
    parser.add_argument(
        "--root-key",
        metavar="KEY",
        type=Path,
        action="append",
        required=True,
        help="a root key; a public one belongs to the role and signs later ('trust sign')",
    )
    parser.add_argument("--root-threshold", metavar="N", type=options.positive, default=1,
                        help="how many root keys must sign a root (default: 1)")  # fmt: skip
    parser.add_argument("--release-key", metavar="PUB", action="append", required=True,
                        help="a public key that signs releases: file or hex; repeatable")  # fmt: skip
    parser.add_argument("--release-threshold", metavar="N", type=options.positive, default=1,
                        help="how many release keys must sign a release (default: 1)")  # fmt: skip
    parser.add_argument("--director", metavar="PUB", help="the manager's public key: file or hex")
    parser.add_argument(
        "--request", metavar="FILE", type=Path,
        help="what 'manager init' wrote: fleet, director and operators (as admins) from there",
    )  # fmt: skip
    parser.add_argument(
        "--operator", metavar="NAME=PUB[:ROLE[@GROUP][,...]]", type=operator, action="append", default=[],
        help="an operator and the roles, in one group or in all (default: admin); repeatable",
    )  # fmt: skip
    _add_expires(parser, DEFAULT_DAYS, f"days until the root expires (default: {DEFAULT_DAYS})")
    _add_out(parser)


def add_add(group: Subparsers, handler: Handler) -> None:
    """`trust add`."""
    parser = options.add_command(
        group,
        "add",
        handler,
        "make the next version of a root, with more keys or operators",
        details="The new version must be signed by the root thresholds of the old and of the new one.\n"
        "Devices follow a chain of versions, so keep and publish every one of them.",
        example="fleetfoot trust add --root root.json --root-key root.key \\\n"
        "    --operator carol=carol.pub:operator@ovens --out root.2.json",
    )
    parser.add_argument("--root", metavar="FILE", type=Path, required=True, help="the present root")
    parser.add_argument("--root-key", metavar="KEY", type=Path, action="append", required=True,
                        help="a secret root key to sign with; repeatable")  # fmt: skip
    parser.add_argument("--release-key", metavar="PUB", action="append", default=[],
                        help="a public key that may sign releases from now on; repeatable")  # fmt: skip
    parser.add_argument("--root-add", metavar="PUB", action="append", default=[],
                        help="a public key that may sign roots from now on; repeatable")  # fmt: skip
    parser.add_argument(
        "--operator", metavar="NAME=PUB:ROLE[@GROUP][,...]", type=operator_with_roles, action="append",
        default=[], help="an operator, or more roles for one who is there; repeatable",
    )  # fmt: skip
    parser.add_argument("--root-threshold", metavar="N", type=options.positive,
                        help="how many root keys must sign from now on")  # fmt: skip
    parser.add_argument("--release-threshold", metavar="N", type=options.positive,
                        help="how many release keys must sign from now on")  # fmt: skip
    _add_expires(parser, None, "days until the new root expires (default: as the present one)")
    _add_out(parser)


def add_rotate(group: Subparsers, handler: Handler) -> None:
    """`trust rotate`."""
    parser = options.add_command(
        group,
        "rotate",
        handler,
        "make the next version of a root, with other keys in the place of old ones",
        details="A key is replaced in every role that it has: root, release, director, operator.\n"
        "OLD and a key to remove are a key id, public hex or a .pub file; NEW is a public key.\n"
        "If the director changes, the epoch rises: what the old director signed is void.\n"
        "The root keys of both versions have to sign; keep and publish every version (docs/keys.md).",
        example="fleetfoot trust rotate --root root.json --root-key root.key \\\n"
        "    --replace release.key.pub release-2.key.pub --out root.2.json\n"
        "fleetfoot trust verify root.json root.2.json",
    )
    parser.add_argument("--root", metavar="FILE", type=Path, required=True, help="the present root")
    parser.add_argument("--root-key", metavar="KEY", type=Path, action="append", default=[],
                        help="a secret root key, of either version, to sign with; repeatable")  # fmt: skip
    parser.add_argument("--replace", metavar=("OLD", "NEW"), nargs=2, action="append", default=[],
                        help="a key, and the one that takes its place; repeatable")  # fmt: skip
    parser.add_argument("--director", metavar="NEW", help="the key that takes the place of the manager's")
    parser.add_argument("--remove", metavar="KEY", action="append", default=[],
                        help="a root or release key that goes; repeatable")  # fmt: skip
    parser.add_argument("--remove-operator", metavar="NAME", type=options.identifier, action="append",
                        default=[], help="an operator who goes; repeatable")  # fmt: skip
    parser.add_argument("--root-threshold", metavar="N", type=options.positive,
                        help="how many root keys must sign from now on")  # fmt: skip
    parser.add_argument("--release-threshold", metavar="N", type=options.positive,
                        help="how many release keys must sign from now on")  # fmt: skip
    _add_expires(parser, None, "days until the new root expires (default: as the present one)")
    _add_out(parser)


def add_verify(group: Subparsers, handler: Handler) -> None:
    """`trust verify`."""
    parser = options.add_command(
        group,
        "verify",
        handler,
        "verify a chain of roots as a device would follow it",
        details="Exits with 5 at the first version that does not follow from the one before.",
        example="fleetfoot trust verify root.json root.2.json root.3.json",
    )
    parser.add_argument("roots", metavar="ROOT", type=Path, nargs="+", help="every version, in any order")


def add_sign(group: Subparsers, handler: Handler) -> None:
    """`trust sign`."""
    parser = options.add_command(
        group,
        "sign",
        handler,
        "add the signature of another root key",
        example="fleetfoot trust sign root.2.json --key second-root.key --previous root.json",
    )
    parser.add_argument("root", metavar="ROOT", type=Path, help="the root to sign; changed in place")
    parser.add_argument("--key", metavar="KEY", type=Path, action="append", required=True,
                        help="a secret root key; repeatable")  # fmt: skip
    parser.add_argument("--previous", metavar="FILE", type=Path,
                        help="the version before, whose threshold counts too")  # fmt: skip


def add_show(group: Subparsers, handler: Handler) -> None:
    """`trust show`."""
    parser = options.add_command(
        group,
        "show",
        handler,
        "show a root: roles, thresholds, keys, expiry, and whether it is validly signed",
        details="Exits with 5 if signatures of root keys are missing.",
        example="fleetfoot trust show root.json",
    )
    parser.add_argument("root", metavar="ROOT", type=Path, help="a root, as written by 'trust init' or 'add'")


def _add_expires(parser: argparse.ArgumentParser, default: int | None, text: str) -> None:
    parser.add_argument("--expires", metavar="DAYS", type=options.days, default=default, help=text)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="where to write the root")
