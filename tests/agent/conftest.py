"""Fixtures of the agent's tests: an install folder, and supervisors that end with their test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.superviserig import Begin, component

from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SocketSeam, guard_path
from fleetfoot_agent.supervise import Supervisor


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A folder with a short name: socket paths are bounded, pytest's names are not."""
    with tempfile.TemporaryDirectory(prefix="ff") as name:
        yield Path(name)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "root", "kiosk")
    found.create()
    return found


@pytest.fixture
def begin(layout: Layout, run_dir: Path) -> Iterator[Begin]:
    """Starts supervisors of `layout` and stops them in the end."""
    started: list[Supervisor] = []

    def start(guard: Path | None = None, changes: dict[str, Any] | None = None, **more: Any) -> SocketSeam:
        found = component(run_dir, **(changes or {}))
        supervisor = Supervisor(layout.folder, found, guard or guard_path(), **more)
        started.append(supervisor)
        supervisor.start()
        return SocketSeam(found.socket)

    yield start
    for supervisor in started:
        supervisor.stop()
