"""What a component needs beside its own unit: the owner's hooks and checks, and what is preserved.

Put for each unit that runs as a hook or check: the enabled path unit that runs it, and one drop-in,
`50-fleetfoot-hook.conf`, that limits its time and brings what is being done into its environment. For
`preserve`: the list of paths, and a drop-in that lets the packaged unit write beside these. All of it is
root's, so the worker can run these units and no others, and have these paths copied and no others.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.adopt import dropin
from fleetfoot_agent.components import Component
from fleetfoot_protocol.errors import FleetfootError

SAVED = Path("/var/lib/fleetfoot/saved")
HOOK_NAME = "50-fleetfoot-hook.conf"
PATHS = "paths"

_HEADER = "# Made by: fleetfoot-agent adopt, for component {component}\n"
_MADE = re.compile(r"# Made by: fleetfoot-agent adopt, for component (\S+)\n")
_CAP = 64 * 1024

Ask = Callable[..., str]
Facts = Callable[[str], Mapping[str, str]]


def keepers(component: str) -> tuple[str, str]:
    """The packaged units of a component that set aside and put back."""
    return f"fleetfoot-keep@{component}.service", f"fleetfoot-restore@{component}.service"


def check(component: Component, units: Path, facts_of: Facts) -> None:
    """Raise `FleetfootError` if something cannot be put; nothing is changed yet."""
    for path in component.preserve:
        if re.search(r"[\s\\]|[^\x20-\x7e]", str(path)):
            text = f"preserve: {str(path)!a} has blanks or characters that systemd would read otherwise"
            raise FleetfootError("config_invalid", text)
    for unit in component.unit_timeouts():
        dropin.check_hook(facts_of(unit))
        taken = owner_of(units / f"{unit}.d")
        if taken not in (None, component.name):
            raise FleetfootError("conflict", f"{unit} is a hook of component {taken} already")


def put(component: Component, units: Path, ask: Ask) -> list[str]:
    """Put what the component's configuration names, take away what it no longer does. What was enabled.

    systemd must read its units anew before anything is enabled, which happens here.
    """
    wanted = component.unit_timeouts()
    head = _HEADER.format(component=component.name)
    for unit, timeout in wanted.items():
        folder = units / f"{unit}.d"
        durable.make_folder(folder)
        durable.write_file(folder / HOOK_NAME, (head + dropin.render_hook(timeout)).encode())
    _put_preserved(component, units, head)
    take_away(component.name, units, ask, keep=set(wanted))
    ask("daemon-reload")
    keep = (keepers(component.name)[0],) if component.preserve else ()
    enabled = [f"fleetfoot-hook@{unit}.path" for unit in (*wanted, *keep)]
    if enabled:
        ask("enable", "--now", *enabled)
    return enabled


def _put_preserved(component: Component, units: Path, head: str) -> None:
    if not component.preserve:
        _take_preserved(component.name, units)
        return
    durable.make_folder(SAVED, 0o700)
    durable.make_folder(SAVED / component.name, 0o700)
    durable.write_file(SAVED / component.name / PATHS, lines_of(component), 0o600)
    folder = units / f"{keepers(component.name)[1]}.d"
    durable.make_folder(folder)
    written = " ".join(sorted({f"-{path.parent}" for path in component.preserve}))
    text = f"[Service]\nReadWritePaths={written}\n"
    durable.write_file(folder / HOOK_NAME, (head + text).encode())


def lines_of(component: Component) -> bytes:
    """The list of paths as it lies on the disk."""
    return "".join(f"{path}\n" for path in component.preserve).encode()


def _take_preserved(component: str, units: Path) -> None:
    if (SAVED / component).is_dir():
        shutil.rmtree(SAVED / component)
    _remove_dropin(units / f"{keepers(component)[1]}.d")


def take_away(component: str, units: Path, ask: Ask, *, keep: set[str] | None = None) -> None:
    """Take away the hooks of a component; without `keep` everything. systemd is told by the caller."""
    restore = keepers(component)[1]
    for folder in sorted(units.glob("*.service.d")):
        unit = folder.name.removesuffix(".d")
        if unit != restore and owner_of(folder) == component and unit not in (keep or ()):
            ask("disable", "--now", f"fleetfoot-hook@{unit}.path")
            _remove_dropin(folder)
    if keep is None:
        with suppress(FleetfootError):  # it was never enabled
            ask("disable", "--now", f"fleetfoot-hook@{keepers(component)[0]}.path")
        _take_preserved(component, units)


def owner_of(folder: Path) -> str | None:
    """The component whose hook the unit with this drop-in folder is; None if it is nobody's."""
    try:
        data = durable.read_regular(folder, HOOK_NAME, _CAP)
    except (FileNotFoundError, NotADirectoryError):
        return None
    match = _MADE.match((data or b"").decode("utf-8", "replace"))
    return match[1] if match else None


def _remove_dropin(folder: Path) -> None:
    if not folder.is_dir():
        return
    durable.remove_file(folder / HOOK_NAME)
    with suppress(OSError):  # somebody else's drop-ins are in it
        folder.rmdir()
