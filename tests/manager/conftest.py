"""Every test of a manager with a store runs twice: on SQLite, and on a PostgreSQL server of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import Device, Realm
from tests.support import stores

from fleetfoot_manager.init import make_state
from fleetfoot_manager.store import Store

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state of a manager that has never run."""
    make_state(tmp_path / "state", "testfleet", {}, stores.database_url())
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as store:
        store.acquire()
        yield store


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return Realm(tmp_path)


@pytest.fixture
def rig(realm: Realm) -> Iterator[Rig]:
    """An engine over a broker that the test plays, connected."""
    rig = Rig(realm)
    rig.connect()
    yield rig
    rig.close()


@pytest.fixture
def device(rig: Rig) -> Device:
    """An enrolled one."""
    device = Device("dev-1", "hall")
    rig.enroll(device)
    return device
