"""`fleetfoot pki init|issue|renew|revoke|list`: certificates for broker and artifact server."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetfoot_manager.pki.folder import DAYS, ROLES, SERVER, Pki
from fleetfoot_protocol import times
from fleetfoot_protocol.errors import FleetfootError

Handler = Callable[[argparse.Namespace], dict[str, Any]]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `pki` command."""
    parser = subparsers.add_parser(
        "pki",
        help="make certificates: who is what at the broker",
        description="Certificates for the broker and the artifact server, where administrators work.\n"
        "They say who connects; what devices run is decided by signatures, not by them.",
        epilog="example:\n  fleetfoot pki init --dir pki --fleet kitchens --server broker.example.org",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="pki_command", required=True, metavar="COMMAND")
    init = _add(
        commands, "init", _init, "make the authorities, the server's certificate and the manager's",
        "One authority for each role: what a certificate was signed for is what its holder may do.",
        "--fleet kitchens --server broker.example.org --server 192.0.2.7",
    )  # fmt: skip
    init.add_argument("--fleet", required=True, metavar="ID", help="in the names of the authorities")
    init.add_argument(
        "--server", action="append", required=True, metavar="NAME",
        help="name or address by which devices reach broker and artifact server; repeatable",
    )  # fmt: skip
    issue = _add(
        commands, "issue", _issue, "make a certificate and its key",
        "Devices that enrol by a token need none of this: they make their keys themselves.",
        "--role operator alice",
    )  # fmt: skip
    renew = _add(
        commands, "renew", _renew, "make a newer certificate for the same key",
        "With --role server, that of broker and artifact server; NAME is not needed then.",
        "--role operator alice",
    )  # fmt: skip
    revoke = _add(
        commands, "revoke", _revoke, "put a name's certificates on the list of revoked ones",
        "Brokers and managers have to get the new list. For a device, 'fleetfoot device revoke' at a\n"
        "manager with --pki does this and more: it ends the device's session.",
        "--role device oven-07",
    )  # fmt: skip
    _add(commands, "list", _list, "list what was issued, and what of it is revoked", "", "")
    for one, roles in ((issue, tuple(ROLES)), (renew, (*ROLES, SERVER)), (revoke, tuple(ROLES))):
        one.add_argument("--role", required=True, choices=roles, help="whose it is")
    for one in (issue, revoke):
        one.add_argument("name", metavar="NAME", help="the id that stands in the topics")
    renew.add_argument("name", metavar="NAME", nargs="?", default="", help="the id that stands in the topics")
    for one in (issue, renew):
        one.add_argument(
            "--days", type=float, default=DAYS, metavar="N", help="how long it lives (default: %(default)g)"
        )


def _add(
    commands: Any, name: str, act: Handler, summary: str, details: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f"\n\n{details}" if details else ""),
        epilog=f"example:\n  fleetfoot pki {name} --dir pki {example}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder of certificates")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(handler=lambda args: _told(act(args), args.json))
    return parser


def _told(result: dict[str, Any], as_json: bool) -> int:
    text = result.pop("text")
    print(json.dumps(result) if as_json else text)
    return 0


def _days(args: argparse.Namespace) -> float:
    if not 0 < args.days <= 3650:
        raise FleetfootError("usage", f"--days {args.days:g}", remedy="give from more than 0 to 3650 days")
    return float(args.days)


def _init(args: argparse.Namespace) -> dict[str, Any]:
    Pki.create(args.dir, args.fleet, args.server)
    return {
        "dir": str(args.dir),
        "text": f"certificates of {args.fleet} in {args.dir}\n"
        "next: copy server.*, *-ca.crt and *.crl to the broker (docs/brokers.md); then, at the manager:\n"
        f"  fleetfoot manager run --dir manager --pki {args.dir} \\\n"
        f"      --broker mqtts://{args.server[0]}:8884 --broker-ca {args.dir}/server-ca.crt \\\n"
        f"      --broker-cert {args.dir}/manager/manager.crt --broker-key {args.dir}/manager/manager.key\n"
        "keep the *-ca.key files from everybody: only devices-ca.key has to be where the manager runs",
    }


def _issue(args: argparse.Namespace) -> dict[str, Any]:
    certificate, key = Pki(args.dir).issue(args.role, args.name, _days(args))
    return {"certificate": str(certificate), "key": str(key), "text": f"made {certificate} and {key}"}


def _renew(args: argparse.Namespace) -> dict[str, Any]:
    if args.role != SERVER and not args.name:
        raise FleetfootError("usage", f"which {args.role}?", remedy="name one")
    path = Pki(args.dir).renew(args.role, args.name, _days(args))
    return {"certificate": str(path), "text": f"renewed {path}; its key is the same"}


def _revoke(args: argparse.Namespace) -> dict[str, Any]:
    pki = Pki(args.dir)
    count = pki.revoke(args.role, args.name)
    if not count:
        raise FleetfootError("not_found", f"no certificate of {args.role} {args.name} was issued here")
    path = args.dir / f"{ROLES[args.role]}.crl"
    text = (
        f"{count} certificate{'s'[: count != 1]} of {args.name} revoked\nnow give the broker the new {path}"
    )
    return {"revoked": count, "list": str(path), "text": text}


def _list(args: argparse.Namespace) -> dict[str, Any]:
    pki = Pki(args.dir)
    rows: list[dict[str, Any]] = []
    for role in ROLES:
        gone = pki.revoked(role)
        for name, serials in pki.issued(role).items():
            rows.append(
                {"role": role, "name": name, "certificates": len(serials),
                 "revoked": sum(serial in gone for serial in serials), "expires": _day(pki, role, name)}
            )  # fmt: skip
    server: dict[str, Any] = {"names": pki.server_hosts(), "expires": _day(pki, SERVER)}
    lines = [f"server {' '.join(server['names'])}: until {server['expires']}", *map(_listed, rows)]
    return {"issued": rows, "server": server, "text": "\n".join(lines)}


def _day(pki: Pki, role: str, name: str = "") -> str | None:
    """When a certificate ends, as wire time; None if it is not here."""
    expires = pki.expires(role, name)
    return None if expires is None else times.to_text(expires)


def _listed(row: dict[str, Any]) -> str:
    """Such as `operator alice: until 2027-03-01T10:00:00Z; 2 made, 1 revoked`."""
    life = f"until {row['expires']}" if row["expires"] else "not kept here"
    return f"{row['role']} {row['name']}: {life}; {row['certificates']} made, {row['revoked']} revoked"
