"""Who the worker is: the owner of its folder. Root that acts by hand becomes that user first."""

import os
import pwd

from fleetfoot_agent.config import AgentConfig
from fleetfoot_protocol.errors import FleetfootError


def become_worker(config: AgentConfig) -> None:
    """Go on as the owner of the worker's folder, if this is root and the folder is another user's.

    What root would write there and below the install root could not be replaced by the worker afterwards, and
    root must not follow what another user has laid out. Raises `FleetfootError` for an owner without a name.
    """
    if os.geteuid() != 0 or not config.worker_dir.is_dir():
        return
    owner = config.worker_dir.stat().st_uid
    if owner == 0:
        return
    try:
        user = pwd.getpwuid(owner)
    except KeyError as error:
        raise FleetfootError(
            "config_invalid",
            f"{config.worker_dir} belongs to user {owner}, who has no name",
            remedy="make the users again: systemd-sysusers fleetfoot.conf",
        ) from error
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
