"""`fleetfoot manager migrate|backup|restore|recover|prune`: looking after what a manager knows."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from fleetfoot_manager.cli_parts import add_command, add_credentials, add_database, credentials_of
from fleetfoot_manager.wording import counted

#: Tables whose rows a backup is told by -> what such rows are.
_TOLD = {"devices": "devices", "releases": "releases", "rollouts": "rollouts", "audit": "audit entries"}
#: What is counted for people -> one of it.
_ONE = {
    "devices": "device",
    "releases": "release",
    "rollouts": "rollout",
    "audit entries": "audit entry",
    "group documents": "group document",
    "orders to single devices": "order to single device",
    "attested reports": "attested report",
}
#: How long a broker that does not answer is waited for.
_PATIENCE_SECONDS = 20.0


def add(commands: Any) -> None:
    """Add the subcommands."""
    _add_migrate(commands)
    _add_backup(commands)
    _add_restore(commands)
    _add_recover(commands)
    _add_prune(commands)


def _add_migrate(commands: Any) -> None:
    parser = add_command(
        commands,
        "migrate",
        "bring the store to the version of this program, or to another",
        "While no manager runs. All or nothing, but make a backup first: going down drops what older\n"
        "versions do not know.",
        "--dir manager",
    )
    parser.add_argument("--to", metavar="VERSION", help="another version, for an older program")
    parser.set_defaults(handler=_migrate)


def _add_backup(commands: Any) -> None:
    parser = add_command(
        commands,
        "backup",
        "write everything the manager knows into one file",
        "Whether or not it runs, from either kind of database. The file holds the director key: keep it as\n"
        "carefully as that.",
        "--dir manager --out manager.backup",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    parser.add_argument(
        "--without-blobs",
        action="store_true",
        help="leave the artifacts out: bundles are published again if they are needed",
    )
    parser.set_defaults(handler=_backup)


def _add_restore(commands: Any) -> None:
    parser = add_command(
        commands,
        "restore",
        "make the manager of a backup in a new folder",
        "Stop the old manager first, for good. What was decided since the backup is not known; what is\n"
        "published next is newer than everything before, and differences are told as alarms.",
        "--dir restored manager.backup",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what 'fleetfoot manager backup' wrote")
    add_database(parser)
    parser.set_defaults(handler=_restore)


def _add_recover(commands: Any) -> None:
    parser = add_command(
        commands,
        "recover",
        "make the store anew from what the broker retains, when no backup is left",
        "For a folder that has its director key and no store any more. Takes what is signed: releases,\n"
        "orders of groups and devices, reports; and the devices' public keys beside the store. Says what\n"
        "it could not recover. Changes nothing on the broker.",
        "--dir manager --root root.json --broker mqtts://broker.example.org",
    )
    parser.add_argument(
        "--root",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="the trust root that devices have; later ones of the chain too (may be given several times)",
    )
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtt://host:port or mqtts://...")
    add_credentials(parser)
    add_database(parser)
    parser.add_argument(
        "--topic-root", default="ff", metavar="TOPIC", help="what topics begin with (default: %(default)s)"
    )
    parser.add_argument(
        "--quiet-seconds",
        type=float,
        default=3.0,
        metavar="N",
        help="the broker has told everything when it was quiet for so long (default: %(default)g)",
    )
    parser.set_defaults(handler=_recover)


def _add_prune(commands: Any) -> None:
    parser = add_command(
        commands,
        "prune",
        "delete artifacts that no release needs any more",
        "Blobs of archived releases, and those that were uploaded more than a day ago and never published.\n"
        "Whether or not the manager runs.",
        "--dir manager --dry-run",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    parser.set_defaults(handler=_prune)


def _migrate(args: argparse.Namespace) -> int:
    from fleetfoot_manager import migrate

    before, after = migrate.run(args.dir, args.to or migrate.CURRENT)
    if args.json:
        print(json.dumps({"before": before, "after": after}))
        return 0
    print(
        f"the store had version {before} and has version {after} now"
        if before != after
        else f"the store has version {after} already"
    )
    return 0


def _backup(args: argparse.Namespace) -> int:
    from fleetfoot_manager import backup

    about = backup.write(args.dir, args.out, blobs=not args.without_blobs)
    if args.json:
        print(json.dumps(about))
        return 0
    tables = about["tables"]
    counts = ", ".join(counted(tables.get(name, 0), _ONE[what], what) for name, what in _TOLD.items())
    print(f"wrote {args.out}: fleet {about['fleet']}, {counts}")
    print("it holds the director key: keep it where you would keep that")
    return 0


def _restore(args: argparse.Namespace) -> int:
    from fleetfoot_manager import backup
    from fleetfoot_manager.database import parse

    url = None if args.database is None else parse(args.database)
    about = backup.restore(args.file, args.dir, url)
    if args.json:
        print(json.dumps({**about, "dir": str(args.dir)}))
        return 0
    print(f"restored fleet {about['fleet']} in {args.dir}, as it was at {about['written']}")
    print("what was decided since is not known; next, once the old manager is stopped for good:")
    print(f"  fleetfoot manager run --dir {shlex.quote(str(args.dir))}")
    return 0


def _recover(args: argparse.Namespace) -> int:
    from fleetfoot_manager import recollect, recover
    from fleetfoot_manager.broker_address import parse_broker
    from fleetfoot_manager.database import parse

    address, credentials = parse_broker(args.broker), credentials_of(args)
    credentials.check(address)
    url = None if args.database is None else parse(args.database)
    heard = recollect.collect(
        address, credentials, args.topic_root, quiet=args.quiet_seconds, limit=_PATIENCE_SECONDS
    )
    report = recover.run(args.dir, args.root, heard, url)
    if args.json:
        print(json.dumps(report.to_json()))
        return 0
    recovered = ", ".join(counted(n, _ONE[what], what) for what, n in report.recovered.items())
    print(f"recovered: {recovered or 'nothing'}")
    print("not recovered:")
    for line in report.lost:
        print("  " + "".join(char if char.isprintable() else "?" for char in line))
    print(f"next: fleetfoot manager run --dir {shlex.quote(str(args.dir))} --broker {args.broker} ...")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from fleetfoot_manager import pruning

    gone = pruning.blobs(args.dir, delete=not args.dry_run)
    if args.json:
        print(json.dumps({"deleted": not args.dry_run, "blobs": gone}))
        return 0
    size = sum(one["length"] for one in gone)
    what = f"{counted(len(gone), 'blob')}, {size} bytes"
    print(f"would delete {what}" if args.dry_run else f"deleted {what}")
    return 0
