"""Access lists in broker_conf/, from the tables of topics and rights: ``python -m docs.generate_acls``.

tests/brokers/test_mosquitto_files.py fails while one of them is out of date.
"""

from collections.abc import Iterator
from pathlib import Path

from fleetfoot_client.broker.rights import RIGHTS, Role, verb
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

FOLDER = Path(__file__).parent.parent / "broker_conf" / "mosquitto"
EMQX = FOLDER.parent / "emqx" / "acl.conf"
#: Where `fleetfoot broker check` works: its topics are never a fleet's, since no root has two levels there.
CHECKS = "ffcheck/#"

_HEAD = """\
# Written by `python -m docs.generate_acls`: change the tables it is made from, not this file.
# Who has what role is decided by who signed the certificate: see the listeners in mosquitto.conf.
# Fleets with another topic root than `ff` replace it here.
#
"""

#: role -> what its rules are, for the reader of the file.
_ABOUT: dict[Role, tuple[str, ...]] = {
    Role.DEVICE: (
        "A device (%u is its id). The group is any: which group it is in, the manager knows and the",
        "signed documents say. What it writes for a group that is not its own counts nowhere.",
    ),
    Role.MANAGER: (
        "The manager. It writes devices' topics too: to forget a device is to clear what it left.",
        "The last rule lets `fleetfoot broker check` be run with the manager's certificate.",
    ),
    Role.OPERATOR: (
        "An operator (%u is the name in the trust root): reads everything but others' requests and",
        "replies, writes requests of its own.",
    ),
    Role.INTEGRATOR: (
        "Dashboards and the like: read what is plain JSON and what it takes to verify it; write nothing.",
    ),
}


def _rules(role: Role) -> Iterator[tuple[str, str]]:
    """(read, write or readwrite; filter in which %u is who connects)."""
    own = RIGHTS[role].own
    for kind in Kind:
        what = verb(role, kind)
        if not what:
            continue
        shape = next(shape for found, shape, _, _ in topics.rows() if found is kind)
        yield what, f"{topics.DEFAULT_ROOT}/{topics.VERSION}/{_filled(shape, own)}"
    if role is Role.MANAGER:
        yield "readwrite", CHECKS


def _filled(shape: str, own: str) -> str:
    levels = ("%u" if own and level == f"{{{own}}}" else level for level in shape.split("/"))
    return "/".join("+" if level.startswith("{") else level for level in levels)


def acl(role: Role) -> str:
    """The access list of one role."""
    about = "".join(f"# {line}\n" for line in _ABOUT[role])
    # `pattern` also where no %u stands: `topic` would hold for the nameless only.
    return _HEAD + about + "".join(f"pattern {what} {name}\n" for what, name in _rules(role))


def files() -> dict[str, str]:
    """Every access list, by its name in `FOLDER`."""
    return {f"{name_of(role)}.acl": acl(role) for role in Role}


_EMQX_HEAD = """\
%% Written by `python -m docs.generate_acls`: change the tables it is made from, not this file.
%% EMQX 5.9 or newer, file authorization. NOT RUN by our tests: there is no EMQX where they run. Look at yours
%% with `fleetfoot broker check --as device` and `--as manager` before a fleet depends on it.
%% Who has what role is decided by the listener, which knows one authority: see emqx.conf. The user name is
%% the certificate's common name. Fleets with another topic root than `ff` replace it here.
"""
#: How EMQX calls what a rule is about.
_EMQX_ACTION = {"read": "subscribe", "write": "publish", "readwrite": "all"}


def emqx() -> str:
    """The one access list of EMQX: a rule for each role and topic, by listener, and nothing else."""
    rules = [
        f'{{allow, {{listener, "ssl:{name_of(role)}"}}, {_EMQX_ACTION[what]}, ["{name}"]}}.'
        for role in Role
        for what, name in _rules(role)
    ]
    return _EMQX_HEAD + "\n".join([*rules, "{deny, all}.", ""]).replace("%u", "${username}")


def name_of(role: Role) -> str:
    """What lists and listeners of a role are called."""
    return str(role) if role is Role.MANAGER else f"{role}s"


def main() -> None:
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    EMQX.write_text(emqx(), encoding="utf-8")


if __name__ == "__main__":
    main()
