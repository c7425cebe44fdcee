"""`fleetfoot key`: making and showing keys."""

import argparse
from pathlib import Path

from fleetfoot_client import keyfiles, options, terminal
from fleetfoot_client.exits import Exit


def register(subparsers: options.Subparsers) -> None:
    """Add `key` and its subcommands."""
    group = options.add_group(
        subparsers,
        "key",
        "make and show keys of releases, operators and roots",
        example="fleetfoot key new release.key",
    )
    new = options.add_command(
        group,
        "new",
        _new,
        "make a new key pair",
        details="Writes the secret key to PATH (mode 0600) and its public part to PATH.pub.\n"
        "Keep the secret key where only its owner can read it; hand out the .pub file.",
        example="fleetfoot key new release.key",
    )
    new.add_argument("path", metavar="PATH", type=Path, help="where to write the secret key")
    show = options.add_command(
        group,
        "show",
        _show,
        "show a key's id and public part",
        details="Takes a secret or a public key file. The secret part is never shown.",
        example="fleetfoot key show release.key.pub",
    )
    show.add_argument("path", metavar="PATH", type=Path, help="a key file")


def _new(args: argparse.Namespace) -> int:
    key = keyfiles.create(args.path)
    value = {
        "id": key.id,
        "public": key.public.hex(),
        "file": str(args.path),
        "public_file": f"{args.path}.pub",
    }
    text = terminal.facts(
        [("secret key", f"{args.path} (keep it)"), ("public key", f"{args.path}.pub"), ("key id", key.id)]
    )
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    key = keyfiles.load(args.path)
    value = {"id": key.id, "public": key.public.hex(), "secret": key.secret is not None}
    holds = "a secret key and its public part" if key.secret is not None else "a public key"
    text = terminal.facts([("key id", key.id), ("public key", key.public.hex()), ("file holds", holds)])
    terminal.show(value, text, as_json=args.json)
    return Exit.OK
