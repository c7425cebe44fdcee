"""`fleetfoot profile`: which fleet, as whom."""

import argparse
import os
from pathlib import Path

from fleetfoot_client import keyfiles, options, profiles, roots, terminal
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

#: Options of `profile set` that are paths, made absolute so that they hold from every folder.
_PATHS = ("key", "root", "password_file", "ca_file", "cert_file", "cert_key_file")


def register(subparsers: options.Subparsers) -> None:
    """Add `profile` and its subcommands."""
    group = options.add_group(
        subparsers,
        "profile",
        "set up which broker, operator, key and trust root to use",
        details="Override fields: FLEETFOOT_BROKER, FLEETFOOT_OPERATOR, FLEETFOOT_KEY, FLEETFOOT_ROOT.\n"
        "FLEETFOOT_PROFILE chooses a profile, FLEETFOOT_CONFIG_DIR the folder of profiles.toml.",
        example="fleetfoot profile list",
    )
    _add_set(group)
    options.add_command(group, "list", _list, "list the profiles", example="fleetfoot profile list")
    show = options.add_command(
        group,
        "show",
        _show,
        "show the profile that would be used, environment included",
        example="fleetfoot profile show\nfleetfoot profile show kitchens --json",
    )
    show.add_argument("name", metavar="NAME", nargs="?", help="a profile (default: as without --profile)")


def _add_set(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "set",
        _set,
        "make or replace a profile",
        details="The key and the root are read and checked now; the first profile becomes the default.",
        example="fleetfoot profile set kitchens --broker mqtts://broker.example.org --operator alice \\\n"
        "    --key alice.key --root root.json --default",
    )
    add = parser.add_argument
    add("name", metavar="NAME", type=options.identifier, help="the profile's name")
    add("--broker", metavar="URL", required=True, help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    add("--operator", metavar="NAME", type=options.identifier, required=True, help="who you are in the root")
    add("--key", metavar="FILE", type=Path, required=True, help="your secret key")
    add("--root", metavar="FILE", type=Path, required=True, help="the fleet's trust root")
    add("--topic-root", metavar="TOPIC", help=f"what topics begin with (default: {topics.DEFAULT_ROOT})")
    add("--username", metavar="NAME", help="your name at the broker, if it wants one")
    add("--password-file", metavar="FILE", type=Path, help="a file with your password at the broker")
    add("--ca-file", metavar="FILE", type=Path, help="certificates that vouch for the broker")
    add("--cert-file", metavar="FILE", type=Path, help="your TLS certificate at the broker")
    add("--cert-key-file", metavar="FILE", type=Path, help="the key of that certificate")
    add("--default", action="store_true", help="use this profile when none is named")


def _set(args: argparse.Namespace) -> int:
    plain = ("broker", "operator", "topic_root", "username")
    settings = {field: value for field in plain if (value := getattr(args, field)) is not None}
    for field in _PATHS:
        if (path := getattr(args, field)) is not None:
            settings[field] = str(path.expanduser().absolute())
    profile = profiles.make(args.name, settings)
    _check(profile)
    where = profiles.save(profile, os.environ, default=args.default)
    value = {**profiles.as_json(profile), "file": str(where)}
    terminal.show(value, f"profile {args.name} is in {where}", as_json=args.json)
    return Exit.OK


def _check(profile: profiles.Profile) -> None:
    """Refuse now what every later command would refuse."""
    key = keyfiles.load_signing(profile.key)
    root = roots.load_valid(profile.root)
    entry = root.roles.operators.get(profile.operator)
    if entry is None or entry.key != key.id:
        bound = "unknown to it" if entry is None else f"bound to the key {entry.key}"
        raise FleetfootError(
            "not_allowed",
            f"the root {profile.root} does not give operator {profile.operator} this key: {bound}",
            remedy="check name and key with 'fleetfoot trust show', or have 'trust add' put them in",
        )


def _list(args: argparse.Namespace) -> int:
    book = profiles.read_book(os.environ)
    value = {
        "default": book.default,
        "profiles": [profiles.as_json(profile) for _, profile in sorted(book.profiles.items())],
    }
    rows = [
        ("*" if name == book.default else "", name, profile.operator, profile.broker)
        for name, profile in sorted(book.profiles.items())
    ]
    none = "no profiles yet: see 'fleetfoot profile set --help'"
    text = terminal.table(("", "PROFILE", "OPERATOR", "BROKER"), rows) if rows else none
    terminal.show(value, text, as_json=args.json)
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    value = profiles.as_json(profiles.choose(args.name, os.environ))
    terminal.show(value, terminal.facts(value.items()), as_json=args.json)
    return Exit.OK
