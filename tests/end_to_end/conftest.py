"""Fleets for end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.end_to_end.town import Town


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A manager with its embedded broker, and no device yet."""
    town = Town(tmp_path)
    try:
        town.open()
        yield town
    finally:
        town.close()


@pytest.fixture
def closed_town(tmp_path: Path) -> Iterator[Town]:
    """A town whose manager the test starts itself."""
    town = Town(tmp_path)
    try:
        yield town
    finally:
        town.close()


@pytest.fixture
def town_with_broker(tmp_path: Path) -> Iterator[Town]:
    """A broker as a process of its own, and a manager that the test starts itself."""
    town = Town(tmp_path, own_broker=True)
    try:
        yield town
    finally:
        town.close()
