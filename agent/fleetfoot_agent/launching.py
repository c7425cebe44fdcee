"""How a supervisor starts a component: what `current` leads to, in which environment, and its log."""

import errno
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent.child import MARK_VARIABLE, Child
from fleetfoot_agent.components import Component
from fleetfoot_agent.layout import Layout, name_of
from fleetfoot_protocol.errors import FleetfootError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """A file to start, and the tree of its version."""

    tree: Path
    path: Path


def base_environment() -> dict[str, str]:
    """What a component, or its guard, gets of the supervisor's own environment."""
    kept = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
    return {"PATH": os.defpath} | {name: os.environ[name] for name in kept if name in os.environ}


def program_of(layout: Layout, target: str) -> Program:
    """The program that `target`, read from `current`, leads to. Raises `FleetfootError` or `OSError`."""
    name = name_of(target)
    if name is None or not layout.is_installed(name):
        raise FleetfootError("not_found", f"current leads to {target[:200]!a}, which is no version")
    entrypoint = layout.entrypoint(name)
    if entrypoint is None:
        raise FleetfootError("not_found", f"nothing usable says what to start in {target}")
    tree = layout.tree(name)
    path = tree / entrypoint
    if not path.resolve().is_relative_to(tree.resolve()):
        raise FleetfootError("not_found", f"{entrypoint} leads out of {target}")
    return Program(tree, path)


def launch(program: Program, component: Component, mark: str, output: int, ready: str | None = None) -> Child:
    """Start the program; `mark` in its environment tells whose it is. Raises `OSError`.

    ready: the address at which it shall say that it is ready, if it shall.
    """
    environment = base_environment() | component.environment
    environment["FLEETFOOT_COMPONENT"] = component.name
    environment["FLEETFOOT_VERSION_DIR"] = str(program.tree)
    environment[MARK_VARIABLE] = mark
    if ready is not None:
        environment["NOTIFY_SOCKET"] = ready
    for _ in range(100):
        try:
            return Child([str(program.path)], program.tree, environment, output)
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
        # Another thread of this process forked while the program was being written: its child holds
        # the file open for writing until it execs, a few milliseconds.
        time.sleep(0.02)
    return Child([str(program.path)], program.tree, environment, output)


def open_log(path: Path, component: str) -> int:
    """The file that takes the output of a component and its guard, or the null device."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:  # before anything is installed there is no folder for it
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:  # a component must start on a full or read-only disk
        _log.warning("%s: no log at %s: %s", component, path, error.strerror)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
