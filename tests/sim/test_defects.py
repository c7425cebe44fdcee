"""The deterministic simulation finds what is planted, and tells of it in the shortest story."""

import logging
from collections.abc import Iterator

import pytest
from tests.sim.defects import DEFECTS, FIRST_SEEDS

from fleetfoot_sim.world import shortest
from fleetfoot_sim.world.story import draw

#: Seeds in which a planted defect must show.
_SEARCHED = 60


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    DEFECTS[name](monkeypatch)
    first = FIRST_SEEDS.get(name, 0)
    seeds = range(first, first + _SEARCHED)
    assert any(shortest.attempt(seed, draw(seed)) for seed in seeds), "nobody noticed"


def test_the_story_of_a_failure_is_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    DEFECTS["trip_does_not_hold"](monkeypatch)
    found = (seed for seed in range(_SEARCHED) if shortest.attempt(seed, draw(seed)))
    seed = next(found)
    failure = shortest.failure_of(seed, draw(seed))
    assert failure is not None
    assert len(failure.story) < len(draw(seed))
    for left_out in range(len(failure.story)):
        rest = failure.story[:left_out] + failure.story[left_out + 1 :]
        assert shortest.attempt(seed, rest) is None
    told = shortest.tell(seed, failure)
    assert "no hold stands" in told
    assert "start" in told
