"""After the commit: is what runs still well, are its files still what was signed? Reported, never undone.

    <state>/worker/watched.json    what was seen last, so that a death between two looks is seen

An alarm stands until the component has been well for the length of its window. Whoever wants another orders
it: a device that went back by itself long after the commit would only hide what is wrong.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, RootModel

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.inspection import tree_problem
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.probation import Look
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Id
from fleetfoot_protocol.states import Lifecycle

WATCHED = "watched.json"
_CAP = 256 * 1024
#: Seconds after which files are read again although nothing says that they were touched.
_READ_AGAIN = 24 * 3600
#: Seconds between two looks while something is wrong.
_ALARMED_LOOK = 60


class _Seen(BaseModel):
    """What was seen last: the tree, after which outcome, its starts, its death; its files, read when, how."""

    tree: str
    after: str = ""
    restarts: int = 0
    died: int = 0
    files: str = ""
    read: int = 0
    tampered: str = ""


class _Watched(RootModel[dict[Id, _Seen]]):
    pass


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a component that nobody works on."""

    component: str
    code: Code
    message: str


class Watch:
    """Looks at what nobody works on. `next_look`: unix seconds, None if nothing asks for one."""

    def __init__(self, config: AgentConfig, memory: Memory) -> None:
        self._config = config
        self._memory = memory
        self._folder = config.worker_dir
        self.next_look: int | None = None

    def look(self, drivers: Iterable[tuple[str, Driver]]) -> list[Trouble]:
        """What is wrong now. Remembers what was seen. Raises `OSError`."""
        before, now = self._read(), int(time.time())
        after: dict[str, _Seen] = {}
        found: list[Trouble] = []
        looks = []
        for name, driver in drivers:
            run = driver.record.run
            if driver.broken or driver.record.state is not Lifecycle.IDLE or run is None:
                continue
            tree = version_name(run.version, run.digest)
            old = before.get(name)
            # Starts in between, of a version that was tried and left, are no deaths of this one.
            last = driver.record.outcomes[-1] if driver.record.outcomes else None
            after_what = f"{last.digest} {last.at}" if last else ""
            first = old is None or (old.tree, old.after) != (tree, after_what)
            seen = _Seen(tree=tree, after=after_what) if old is None or first else old.model_copy()
            found += self._health(driver, seen, now, first=first)
            found += self._files(driver, seen, now)
            after[name] = seen
            if driver.component.checks:
                looks.append(now + int(driver.component.watch))
        if found:
            looks.append(now + _ALARMED_LOOK)
        self.next_look = min(looks, default=None)
        if after != before:
            durable.write_file(self._folder / WATCHED, _Watched(after).model_dump_json().encode(), 0o600)
        return found

    def _health(self, driver: Driver, seen: _Seen, now: int, *, first: bool) -> list[Trouble]:
        look = driver.look()
        if look.up is None:
            return []  # nobody can say: the supervisor itself is not there
        if not first and look.restarts > seen.restarts:
            seen.died = now
        seen.restarts = look.restarts
        name = driver.component.name
        if not look.up:
            return [Trouble(name, Code.UPGRADE_BOOT_FAILED, _line("it does not run", look))]
        if look.problem is not None:
            return [Trouble(name, Code.UPGRADE_HEALTH_FAILED, _line("it is not well", look))]
        if seen.died and now - seen.died < driver.component.window:
            return [
                Trouble(
                    name, Code.UPGRADE_BOOT_FAILED, "it died after it was committed, and was started again"
                )
            ]
        seen.died = 0
        return []

    def _files(self, driver: Driver, seen: _Seen, now: int) -> list[Trouble]:
        folder = driver.layout.tree(seen.tree)
        marks = _marks(folder)
        if marks != seen.files or not 0 <= now - seen.read < _READ_AGAIN:
            try:
                seen.tampered = tree_problem(self._config, self._memory.root, driver.layout, seen.tree)
            except FleetfootError as error:
                seen.tampered = str(error)
            seen.files, seen.read = marks, now
        if not seen.tampered:
            return []
        return [Trouble(driver.component.name, Code.UPGRADE_TREE_MISMATCH, seen.tampered[:200])]

    def _read(self) -> dict[str, _Seen]:
        data = durable.read_regular(self._folder, WATCHED, _CAP)
        try:
            return {} if data is None else _Watched.model_validate(json.loads(data), strict=True).root
        except ValueError:
            return {}


def _line(what: str, look: Look) -> str:
    return f"{what}: {look.problem or 'the process has ended'}"


def _marks(folder: Path) -> str:
    """A digest of what the file system says of every member: whoever changes one changes it too."""
    found = hashlib.sha256()
    for base, folders, files in sorted(os.walk(folder)):
        for name in sorted((*folders, *files)):
            path = os.path.join(base, name)
            try:
                facts = os.lstat(path)
            except FileNotFoundError:
                continue
            numbers: tuple[int, ...] = (facts.st_mode,)
            if name not in folders:
                times = (facts.st_mtime_ns, facts.st_ctime_ns)
                numbers = (facts.st_mode, facts.st_size, facts.st_ino, *times)
            found.update(f"{os.path.relpath(path, folder)}\0{numbers}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
