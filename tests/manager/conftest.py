"""Every test of a manager with a store runs twice: on SQLite, and on a PostgreSQL server of its own."""

from collections.abc import Iterator

import pytest
from tests.support import stores

#: A module that has one of these names uses a store.
_USE_A_STORE = ("Realm", "Rig", "Store", "make_state")
_BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if any(hasattr(metafunc.module, name) for name in _USE_A_STORE):
        metafunc.parametrize("backend", _BACKENDS, indirect=True, scope="module")


@pytest.fixture(scope="session")
def postgres() -> Iterator[stores.PostgresServer]:
    server = stores.PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where stores are made from here on."""
    name = getattr(request, "param", "sqlite")
    if name == "postgresql":
        stores.server = request.getfixturevalue("postgres")
    yield name
    stores.server = None
