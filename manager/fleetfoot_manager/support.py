"""Devices that are too far behind: more than one major version below what whole groups may have.

At most one major version can be crossed at once, so such a device cannot follow its group any more. It is
flagged. What brings it forward or takes it away works as ever: upgrading it, giving it back to its group,
other hardware in its place, and revoking it. Any other verb that changes something of it is refused.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import catalogue, schema
from fleetfoot_manager.catalogue import Life
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_protocol import versions
from fleetfoot_protocol.errors import FleetfootError


def newest(tx: Connection) -> dict[str, str]:
    """component -> the newest version that whole groups may have; recalled ones do not count."""
    table = schema.releases.c
    recalled = {known.digest for known in catalogue.recalls(tx)}
    rows = tx.execute(
        sa.select(table.component, table.version, table.digest)
        .where(table.life.in_([str(Life.BLESSED), str(Life.LIVE)]))
        .order_by(table.counter)
    )
    return {component: version for component, version, digest in rows if digest not in recalled}


def behind(entry: DeviceEntry, known: Mapping[str, str]) -> dict[str, str]:
    """component -> why the device is out of support for it; empty for one that is not. known: `newest`."""
    found: dict[str, str] = {}
    for name, one in entry.status.components.items() if entry.status else ():
        wanted = known.get(name)
        if one.running is None or wanted is None:
            continue
        if versions.major(wanted) - versions.major(one.running.version) > 1:
            found[name] = f"{one.running.version} is more than one major version behind {wanted}"
    return found


def demand(
    tx: Connection, entry: DeviceEntry, component: str | None = None, *, otherwise: str | None = None
) -> None:
    """Raise FleetfootError `state_refused` for a device that is out of support, for any component if None.

    otherwise: what else than upgrading it helps.
    """
    found = behind(entry, newest(tx))
    for name, why in found.items():
        if component in (None, name):
            way = f"upgrade it first; 'fleetfoot device upgrades {entry.id} {name}' lists the way"
            raise FleetfootError(
                "state_refused",
                f"{entry.id} is out of support: {name} {why}",
                remedy=way if otherwise is None else f"{way}; {otherwise}",
            )
