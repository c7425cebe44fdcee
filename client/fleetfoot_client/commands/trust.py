"""`fleetfoot trust`: making, changing, signing, showing and verifying the trust root of a fleet."""

import argparse
import time
from pathlib import Path
from typing import Any

from fleetfoot_client import files, keyfiles, options, roots, terminal
from fleetfoot_client.commands import trust_arguments
from fleetfoot_client.commands.trust_arguments import OperatorSpec
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import dsse, keys, times, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import expired
from fleetfoot_protocol.dsse import Envelope, PayloadType
from fleetfoot_protocol.errors import FleetfootError, TrustError
from fleetfoot_protocol.trust import TrustRoot


def register(subparsers: options.Subparsers) -> None:
    """Add `trust` and its subcommands."""
    group = options.add_group(
        subparsers,
        "trust",
        "make and change the trust root: who may sign what",
        example="fleetfoot trust show root.json",
    )
    trust_arguments.add_init(group, _init)
    trust_arguments.add_add(group, _add)
    trust_arguments.add_rotate(group, _rotate)
    trust_arguments.add_sign(group, _sign)
    trust_arguments.add_show(group, _show)
    trust_arguments.add_verify(group, _verify)


def _init(args: argparse.Namespace) -> int:
    fleet, director, members = _request(args.request) if args.request else (None, None, {})
    if args.fleet and fleet and args.fleet != fleet:
        raise FleetfootError("usage", f"the request is for the fleet {fleet}, not {args.fleet}")
    fleet = args.fleet or fleet
    if not fleet or (director is None and args.director is None):
        raise FleetfootError("usage", "give --request, or both --fleet and --director")
    if director is not None and args.director is not None:
        raise FleetfootError("usage", "give the director by --request or by --director, not by both")
    members.update(_members(args.operator, members))
    if not members:
        raise FleetfootError("usage", "give at least one --operator, or a --request that names some")
    root_keys = [keyfiles.load(path) for path in args.root_key]
    document = roots.build(
        fleet,
        times.to_text(time.time() + args.expires * 86400),
        root=([key.public for key in root_keys], args.root_threshold),
        release=([keyfiles.load_public(text) for text in args.release_key], args.release_threshold),
        director=director if director is not None else keyfiles.load_public(args.director),
        operators=members,
    )
    secrets = [key.secret for key in root_keys if key.secret is not None]
    envelope = dsse.sign(PayloadType.ROOT, document.payload(), *secrets)
    files.write_new(args.out, dsse.encode(envelope))
    return _report(args, args.out, envelope, document, None)


def _request(path: Path) -> tuple[str, bytes, dict[str, roots.Member]]:
    """Fleet, director and operators from the file that `manager init` wrote; they become admins."""
    request = trust_arguments.read_request(path)
    everything = {"*": (trust_arguments.DEFAULT_ROLE,)}
    members = {
        name: roots.Member(keyfiles.load_public(key), everything) for name, key in request.operators.items()
    }
    return request.fleet, keyfiles.load_public(request.director), members


def _members(specs: list[OperatorSpec], have: dict[str, roots.Member]) -> dict[str, roots.Member]:
    found: dict[str, roots.Member] = {}
    for spec in specs:
        if spec.name in found or spec.name in have:
            raise FleetfootError("usage", f"operator {spec.name} is given twice; join roles with commas")
        found[spec.name] = roots.Member(keyfiles.load_public(spec.key), spec.grants)
    return found


def _add(args: argparse.Namespace) -> int:
    envelope, have = roots.load(args.root)
    trust.first_root(dsse.encode(envelope))
    more = roots.Additions(
        root_keys=tuple(keyfiles.load_public(text) for text in args.root_add),
        release_keys=tuple(keyfiles.load_public(text) for text in args.release_key),
        operators=_members(args.operator, {}),
        root_threshold=args.root_threshold,
        release_threshold=args.release_threshold,
        expires=None if args.expires is None else times.to_text(time.time() + args.expires * 86400),
    )
    if more == roots.Additions():
        raise FleetfootError("usage", "nothing to add: give --release-key, --operator or --root-add")
    document = roots.successor(have, more)
    secrets = [_root_secret(path, have, document) for path in args.root_key]
    signed = dsse.sign(PayloadType.ROOT, document.payload(), *secrets)
    files.write_new(args.out, dsse.encode(signed))
    return _report(args, args.out, signed, document, have)


def _rotate(args: argparse.Namespace) -> int:
    envelope, have = roots.load(args.root)
    trust.first_root(dsse.encode(envelope))
    replaced: dict[str, bytes | None] = {}
    for old, new in args.replace:
        replaced[_key_id(old)] = keyfiles.load_public(new)
    if args.director is not None:
        if len(have.roles.director.keys) > 1:
            raise FleetfootError("usage", "the root names several directors: say which with --replace")
        replaced[have.roles.director.keys[0]] = keyfiles.load_public(args.director)
    for old in args.remove:
        replaced[_key_id(old)] = None
    change = roots.Rotation(
        replaced=replaced,
        operators=frozenset(args.remove_operator),
        root_threshold=args.root_threshold,
        release_threshold=args.release_threshold,
        expires=None if args.expires is None else times.to_text(time.time() + args.expires * 86400),
    )
    if change == roots.Rotation():
        raise FleetfootError(
            "usage", "nothing to rotate: give --replace, --director, --remove or --remove-operator"
        )
    document = roots.rotated(have, change)
    secrets = [_root_secret(path, have, document) for path in args.root_key]
    signed = dsse.sign(PayloadType.ROOT, document.payload(), *secrets)
    files.write_new(args.out, dsse.encode(signed))
    if document.epoch != have.epoch:
        terminal.note(f"the director changes, so the epoch rises to {document.epoch}: see docs/keys.md")
    return _report(args, args.out, signed, document, have)


def _key_id(text: str) -> str:
    """The id of a key given by its id, its public part, or the file of that."""
    return text if trust_arguments.KEY_ID.fullmatch(text) else keys.key_id(keyfiles.load_public(text))


def _verify(args: argparse.Namespace) -> int:
    found = roots.chain(args.roots)
    last = found[-1]
    steps = [{"version": root.version, "epoch": root.epoch, "expires": root.expires} for root in found]
    late = expired(last.expires, int(time.time()))
    value = {"fleet": last.fleet, "versions": steps, "expired": late}
    rows = [(step["version"], step["epoch"], step["expires"]) for step in steps]
    text = terminal.table(("VERSION", "EPOCH", "EXPIRES"), rows)
    text += f"\na device with root {found[0].version} of fleet {last.fleet} follows to root {last.version}"
    if late:
        terminal.note(f"root {last.version} expired on {last.expires}: make the next version of it")
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _sign(args: argparse.Namespace) -> int:
    envelope, document = roots.load(args.root)
    previous = None
    if args.previous is not None:
        previous = roots.load(args.previous)[1]
        if (previous.fleet, previous.version + 1) != (document.fleet, document.version):
            raise FleetfootError("usage", f"{args.previous} is not the version before {args.root}")
    for path in args.key:
        envelope = dsse.add_signature(envelope, _root_secret(path, previous, document))
    files.replace(args.root, dsse.encode(envelope))
    return _report(args, args.root, envelope, document, previous)


def _root_secret(path: Path, previous: TrustRoot | None, document: TrustRoot) -> bytes:
    """A secret root key of this root or of the one before; others would only be noise in it."""
    key = keyfiles.load_signing(path)
    judges = [document, *([previous] if previous else [])]
    if not any(key.id in judge.roles.root.keys for judge in judges):
        raise TrustError(
            Code.UPGRADE_IDENTITY_NOT_ALLOWED,
            f"the key {path} ({key.id}) is no root key of root {document.version}",
            remedy="sign with a root key",
        )
    return key.secret


def _report(
    args: argparse.Namespace, path: Path, envelope: Envelope, document: TrustRoot, previous: TrustRoot | None
) -> int:
    """What was written and which signatures it still needs."""
    missing = roots.missing(envelope, document, previous)
    value = {
        "file": str(path),
        "version": document.version,
        "fleet": document.fleet,
        "expires": document.expires,
        "signers": roots.signers(envelope, document.keys),
        "missing": missing,
    }
    text = f"root {document.version} of fleet {document.fleet} is in {path}, valid until {document.expires}"
    for what in missing:
        text += f"\nnot valid yet: {what}\n  add one: fleetfoot trust sign {path} --key KEY"
    if not missing:
        text += f"\nnext: give it to the manager, fleetfoot manager run --root {path}"
        if document.version == 1:
            text += "\nto operators (profile set) and devices (fleetfoot-agent init); put the root keys away"
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    envelope, document = roots.load(args.root)
    valid = not roots.missing(envelope, document)
    value = _root_json(envelope, document, valid)
    terminal.show(value, _root_text(value), as_json=args.json)
    return Exit.OK if valid else Exit.TRUST


def _root_json(envelope: Envelope, document: TrustRoot, valid: bool) -> dict[str, Any]:
    plain = document.model_dump(mode="json")
    return {
        **{name: plain[name] for name in ("fleet", "version", "epoch", "expires")},
        "expired": expired(document.expires, int(time.time())),
        "valid": valid,
        "signers": roots.signers(envelope, document.keys),
        "digest": envelope.digest,
        "roles": {name: plain["roles"][name] for name in ("root", "release", "director")},
        "operators": plain["roles"]["operators"],
        "keys": plain["keys"],
    }


def _root_text(value: dict[str, Any]) -> str:
    head = terminal.facts(
        [
            ("fleet", value["fleet"]),
            ("version", value["version"]),
            ("epoch", value["epoch"]),
            ("expires", value["expires"] + (" (expired)" if value["expired"] else "")),
            ("self-signed", "yes, validly" if value["valid"] else "no: signatures of root keys are missing"),
            ("signed by", " ".join(value["signers"]) or "nobody"),
            ("digest", value["digest"]),
        ]
    )
    roles = terminal.table(
        ("ROLE", "NEEDS", "KEYS"),
        [
            (name, f"{role['threshold']} of {len(role['keys'])}", " ".join(role["keys"]))
            for name, role in value["roles"].items()
        ],
    )
    operators = terminal.table(
        ("OPERATOR", "KEY", "ROLES"),
        [
            (
                name,
                operator["key"],
                " ".join(f"{r}@{g}" for g, held in operator["roles"].items() for r in held),
            )
            for name, operator in value["operators"].items()
        ],
    )
    return f"{head}\n\n{roles}\n\n{operators}"
