"""`fleetfoot key`: making and showing keys."""

import argparse
from pathlib import Path

from fleetfoot_client import keyfiles, lockbox, options, terminal
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
    new.add_argument(
        "--passphrase",
        action="store_true",
        help=f"lock it; asked for at the terminal, or read from the file that {lockbox.FILE_VARIABLE} names",
    )
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
    key = keyfiles.create(args.path, lockbox.ask_new() if args.passphrase else None)
    value = {
        "id": key.id,
        "public": key.public.hex(),
        "file": str(args.path),
        "public_file": f"{args.path}.pub",
        "locked": args.passphrase,
    }
    text = terminal.facts(
        [("secret key", f"{args.path} (keep it)"), ("public key", f"{args.path}.pub"), ("key id", key.id)]
    )
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    key = keyfiles.load(args.path, unlock=False)
    value = {"id": key.id, "public": key.public.hex(), "secret": key.kind != keyfiles.PUBLIC_KIND}
    holds = {
        keyfiles.PUBLIC_KIND: "a public key",
        keyfiles.SECRET_KIND: "a secret key and its public part",
        keyfiles.LOCKED_KIND: "a secret key, locked by a passphrase, and its public part",
    }[key.kind]
    text = terminal.facts([("key id", key.id), ("public key", key.public.hex()), ("file holds", holds)])
    terminal.show(value, text, as_json=args.json)
    return Exit.OK
