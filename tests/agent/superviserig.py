"""Installed versions, supervisors and their sockets, for the tests that start real processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.waiting import until

from fleetfoot_agent.child import process_facts
from fleetfoot_agent.components import Component
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SocketSeam, UnitState

ONE = "1.0.0-00000000"
TWO = "1.1.0-11111111"
RUNS = "#!/bin/sh\necho run >>starts\nexec sleep 1000\n"
DIES = "#!/bin/sh\necho run >>starts\nexit 1\n"


def runs(pid: int) -> bool:
    facts = process_facts(pid)
    return facts is not None and facts[0] not in "ZX"


def install(layout: Layout, name: str, script: str, entrypoint: str = "bin/app") -> None:
    staged = layout.staging / name
    (staged / "bin").mkdir(parents=True)
    (staged / "bin" / "app").write_text(script)
    (staged / "bin" / "app").chmod(0o755)
    layout.promote(staged, name, b"{}", entrypoint)


def component(run_dir: Path, **changes: Any) -> Component:
    plain = Component(
        name="kiosk",
        checks=(),
        window=10.0,
        settle=1.0,
        max_boot_attempts=3,
        socket=run_dir / "kiosk.sock",
        environment={},
        restart_delay=0.05,
    )
    return replace(plain, **changes)


#: begin(guard=None, changes=None, **of the supervisor): the seam to a supervisor that has begun.
Begin = Callable[..., SocketSeam]


def starts(layout: Layout, name: str) -> int:
    try:
        return len((layout.tree(name) / "starts").read_text().splitlines())
    except FileNotFoundError:
        return 0


def active(seam: SocketSeam) -> UnitState:
    """The state once the component runs."""

    def look() -> UnitState | None:
        state = seam.state()
        return state if state.active else None

    state = until(look, "the component runs")
    assert state is not None
    return state


#: A component that is hard to end: of its children one is plain, one ignores being asked, one leaves the
#: group, one drops the mark.
FAMILY = """#!/bin/sh
sleep 1000 &
echo $! >children
(trap '' TERM; exec sleep 1000) &
echo $! >>children
setsid sleep 1000 &
echo $! >>children
env -i PATH="$PATH" sleep 1000 &
echo $! >>children
echo >ready
wait
"""


def family(layout: Layout, seam: SocketSeam) -> list[int]:
    tree = layout.tree(ONE)
    until((tree / "ready").exists, "the family is complete")
    pid = seam.state().pid
    assert pid is not None
    return [pid, *map(int, (tree / "children").read_text().split())]
