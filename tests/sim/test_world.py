"""The deterministic simulation: it holds for many seeds, and tells the same twice."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetfoot_sim.world import shortest
from fleetfoot_sim.world.fleet import Fleet
from fleetfoot_sim.world.story import draw
from fleetfoot_sim.world.world import run


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 200, 5))
def test_whatever_happens_the_promises_hold(first: int) -> None:
    for seed in range(first, first + 5):
        failure = shortest.failure_of(seed, draw(seed))
        if failure is not None:
            pytest.fail(shortest.tell(seed, failure))


def test_one_seed_is_one_run(tmp_path: Path) -> None:
    traces = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        traces.append(run(tmp_path / name, 7, draw(7)))
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_what_every_run_starts_from_lies_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fleet = Fleet()
    assert list(tmp_path.iterdir()) == []
    fleet.copy_store(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
