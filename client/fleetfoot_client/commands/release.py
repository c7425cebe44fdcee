"""`fleetfoot release`: building, signing and verifying releases, offline; publishing is in `catalogue`."""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from fleetfoot_client import agent_payload, building, files, keyfiles, options, roots, terminal
from fleetfoot_client import bundle as bundles
from fleetfoot_client.bundle import Bundle, Signers
from fleetfoot_client.commands import catalogue
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Release, expired
from fleetfoot_protocol.errors import FleetfootError, TrustError

_MAX_NOTES = 16_384


def register(subparsers: options.Subparsers) -> None:
    """Add `release` and its subcommands."""
    group = options.add_group(
        subparsers,
        "release",
        "build, sign, verify and publish releases",
        example="fleetfoot release verify dist/kiosk-1.1.0 --root root.json",
    )
    _add_build(group)
    _add_build_agent(group)
    _add_sign(group)
    _add_verify(group)
    catalogue.add_publish(group)
    catalogue.add_list(group)
    catalogue.add_show(group)
    catalogue.add_compare(group)
    catalogue.add_life(group)


def _add_build(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "build",
        _build,
        "build an unsigned release from a folder",
        details="Writes the bundle OUT/COMPONENT-VERSION/. The same folder gives the same bytes: 'created'\n"
        "is SOURCE_DATE_EPOCH or the newest file's time, the counter one more than the highest in OUT.",
        example="fleetfoot release build app/ --component kiosk --version 1.1.0 --entrypoint bin/kiosk \\\n"
        "    --platform linux/amd64 --platform linux/arm64 --notes @NOTES.md --out dist/",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="the folder to pack, as it will be installed")
    add("--component", metavar="NAME", type=options.identifier, required=True, help="what is upgraded")
    add("--version", type=options.version, required=True, help="SemVer, e.g. 1.1.0")
    add("--entrypoint", metavar="PATH", required=True, help="what is started, relative to DIR")
    add("--out", metavar="DIR", type=Path, default=Path("dist"), help="where bundles lie (default: dist)")
    add("--channel", choices=("stable", "beta", "dev"), default="stable", help="default: stable")
    add("--platform", metavar="OS/ARCH[/LIBC]", type=_place, action="append", default=[],
        help="what it runs on; repeatable (default: this machine's system and machine)")  # fmt: skip
    add("--format", choices=("tar.gz", "tar.zst"), default="tar.gz", dest="form",
        help="tar.zst is smaller, but only for devices with libzstd (default: tar.gz)")  # fmt: skip
    add("--notes", metavar="TEXT|@FILE", default="", help="what people should know, or @ and a file with it")
    add("--counter", metavar="N", type=options.positive, help="order of releases; chosen if left out")
    add("--min-counter", metavar="N", type=options.natural, default=0,
        help="no device goes below this counter any more once it runs this (default: 0)")  # fmt: skip
    add("--min-agent", metavar="VERSION", type=options.version, default="0.1.0",
        help="the oldest agent that can install it (default: 0.1.0)")  # fmt: skip
    add("--hw", metavar="NAME", action="append", default=[],
        help="hardware it is for; repeatable (default: any)")  # fmt: skip
    add("--source", metavar="URL", action="append", default=[],
        help="base URL where devices find the blobs; repeatable (default: the manager)")  # fmt: skip
    add("--replace", action="store_true", help="replace a bundle of this version that differs")


def _add_build_agent(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "build-agent",
        _build_agent,
        "build an unsigned release of the agent itself",
        details="Takes the agent of this environment, base install alone, as a tree that runs anywhere.\n"
        "It is bound to this machine's C library and Python: build it once for each kind of device.",
        example="fleetfoot release build-agent --out dist/",
    )
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="where bundles lie, e.g. dist/")
    add("--version", type=options.version, help="SemVer (default: the version of this installation)")
    add("--channel", choices=("stable", "beta", "dev"), default="stable", help="default: stable")
    add("--notes", metavar="TEXT|@FILE", default="", help="what people should know, or @ and a file with it")
    add("--counter", metavar="N", type=options.positive, help="order of releases; chosen if left out")
    add("--min-counter", metavar="N", type=options.natural, default=0,
        help="no device goes below this counter any more once it runs this (default: 0)")  # fmt: skip
    add("--source", metavar="URL", action="append", default=[],
        help="base URL where devices find the blobs; repeatable (default: the manager)")  # fmt: skip
    add("--replace", action="store_true", help="replace a bundle of this version that differs")


def _add_sign(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "sign",
        _sign,
        "add signatures of release keys to a bundle",
        details="The blobs are compared with the manifest first: what is signed is what was built.\n"
        "With --root it says how many signatures the fleet demands.",
        example="fleetfoot release sign dist/kiosk-1.1.0 --key release.key --root root.json",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder made by 'release build'")
    parser.add_argument("--key", metavar="KEY", type=Path, action="append", required=True,
                        help="a secret release key; repeatable")  # fmt: skip
    parser.add_argument("--root", metavar="FILE", type=Path, help="the fleet's trust root")


def _add_verify(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "verify",
        _verify,
        "verify a bundle as a device would, offline",
        details="Signatures with the root's threshold; length, sha256 and every chunk of every blob.\n"
        "Exits with 5 if anything is not as it was signed.",
        example="fleetfoot release verify dist/kiosk-1.1.0 --root root.json",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder made by 'release build'")
    parser.add_argument("--root", metavar="FILE", type=Path, required=True,
                        help="the trust root that the devices have")  # fmt: skip


def _place(text: str) -> building.Place:
    try:
        return building.parse_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _notes(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return files.read(Path(text[1:]), _MAX_NOTES).decode().strip()
    except UnicodeDecodeError:
        raise FleetfootError("io_error", f"{text[1:]} is not UTF-8 text") from None


def _build_agent(args: argparse.Namespace) -> int:
    version = args.version or agent_payload.version()
    recipe = building.Recipe(
        component=agent_payload.COMPONENT,
        version=version,
        entrypoint=agent_payload.ENTRYPOINT,
        channel=args.channel,
        places=(agent_payload.this_place(),),
        notes=_notes(args.notes),
        counter=args.counter,
        min_counter=args.min_counter,
        sources=tuple(args.source),
    )
    with tempfile.TemporaryDirectory(prefix="fleetfoot-agent-") as folder:
        tree = agent_payload.lay(Path(folder) / "agent", version_of_release=version)
        # What was laid a moment ago has no time of its own that would mean anything.
        environ = {"SOURCE_DATE_EPOCH": "0", **os.environ}
        built = building.build(tree, recipe, args.out, environ, replace=args.replace)
    return _tell_built(args, built)


def _build(args: argparse.Namespace) -> int:
    recipe = building.Recipe(
        component=args.component,
        version=args.version,
        entrypoint=args.entrypoint.removeprefix("./"),
        channel=args.channel,
        places=tuple(dict.fromkeys(args.platform)),
        notes=_notes(args.notes),
        counter=args.counter,
        min_counter=args.min_counter,
        min_agent=args.min_agent,
        hw=tuple(args.hw),
        sources=tuple(args.source),
        form=args.form,
    )
    if args.form == "tar.zst":
        terminal.note("a device without libzstd.so.1 answers upgrade_incompatible to a tar.zst release")
    return _tell_built(args, building.build(args.folder, recipe, args.out, os.environ, replace=args.replace))


def _tell_built(args: argparse.Namespace, built: building.Built) -> int:
    made = built.bundle
    value = {**_release_json(made), "unchanged": built.unchanged}
    text = _release_text(made)
    if built.unchanged:
        text += f"\n\n{made.path} holds this very release already; it was left as it is"
    else:
        text += f"\n\nnot signed yet: fleetfoot release sign {made.path} --key KEY"
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _sign(args: argparse.Namespace) -> int:
    bundle = bundles.load(args.bundle)
    root = roots.load_valid(args.root) if args.root else None
    bundles.check_blobs(bundle)
    secrets = []
    for path in args.key:
        key = keyfiles.load_signing(path)
        if root is not None and key.id not in root.roles.release.keys:
            raise TrustError(
                Code.UPGRADE_IDENTITY_NOT_ALLOWED,
                f"the key {path} ({key.id}) is no release key of root {root.version}",
            )
        secrets.append(key.secret)
    bundle = bundles.add_signatures(bundle, secrets)
    value: dict[str, Any] = {
        **_release_json(bundle),
        "signed_with": [signature.keyid for signature in bundle.envelope.signatures],
    }
    text = f"{bundle.path} is signed with {' '.join(value['signed_with'])}"
    if root is not None:
        found = bundles.signers(bundle, root)
        value["missing"] = max(0, found.threshold - len(found.ids))
        text += f"\n{len(found.ids)} of the {found.threshold} signatures that root {root.version} demands"
    text += f"\nnext: fleetfoot release verify {bundle.path} --root {args.root or 'ROOT'}"
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _verify(args: argparse.Namespace) -> int:
    bundle = bundles.load(args.bundle)
    root = roots.load_valid(args.root)
    found = bundles.verify(bundle, root)
    late = expired(root.expires, int(time.time()))
    value = {**_release_json(bundle), **_signers_json(found), "root": root.version, "root_expired": late}
    text = f"{_release_text(bundle)}\n\nverified by root {root.version} of fleet {root.fleet}: "
    text += f"{_signers_text(found)}; all blobs are whole"
    text += f"\nnext: fleetfoot release publish {bundle.path}"
    text += f"\nor, on one device by hand: fleetfoot-agent install {bundle.path}"
    if late:
        terminal.note(f"the trust root {args.root} expired on {root.expires}: make the next version of it")
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _signers_json(found: Signers) -> dict[str, Any]:
    return {"signers": found.ids, "threshold": found.threshold}


def _signers_text(found: Signers) -> str:
    return f"signed by {' '.join(found.ids)}, as {found.threshold} of the release keys must"


def _release_json(bundle: Bundle) -> dict[str, Any]:
    release = bundle.release
    return {
        "bundle": str(bundle.path),
        "component": release.component,
        "version": release.version,
        "channel": release.channel,
        "counter": release.counter,
        "min_counter": release.min_counter,
        "created": release.created,
        "digest": bundle.digest,
        "platforms": platforms_of(release),
        "length": max(artifact.length for artifact in release.artifacts),
    }


def platforms_of(release: Release) -> list[str]:
    """The platforms of a release, as `os/arch[/libc]`."""
    return [str(building.Place(a.os, a.arch, a.libc)) for a in release.artifacts]


def _release_text(bundle: Bundle) -> str:
    release = bundle.release
    artifact = max(release.artifacts, key=lambda a: a.length)
    return terminal.facts(
        [
            ("bundle", bundle.path),
            ("release", f"{release.component} {release.version} ({release.channel})"),
            ("counter", release.counter),
            ("platforms", " ".join(platforms_of(release))),
            ("entrypoint", artifact.entrypoint),
            ("size", f"{terminal.bytes_text(artifact.length)} ({artifact.length} bytes)"),
            ("created", release.created),
            ("digest", bundle.digest),
        ]
    )
