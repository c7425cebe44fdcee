"""What a machine lacks is never passed over in silence.

A test that needs more than any machine has says so: ``@pytest.mark.needs("root")``. Where the capability
is missing, the test is left out and the end of the run lists it under "omitted", with what would help.
``FLEETFOOT_REQUIRE=root,systemd`` names capabilities that this run must have: a test that would be
omitted for want of one of them fails instead. A capability that nobody knows is an error of usage.

``FLEETFOOT_WITHOUT_PYNACL=1`` runs the tests as on a machine that has no PyNaCl: see ``make fallback``.

Files are run side by side (pytest-xdist): each worker leaves out the same tests, the controller tells it.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.lab import host as lab
from tests.lab import quota
from tests.support import stores

from fleetfoot_agent.worker import unzstd

# Examples are about what is right, not about how busy the machine is.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@dataclass(frozen=True)
class Capability:
    present: Callable[[], bool]
    remedy: str


def on_path(program: str) -> Callable[[], bool]:
    return lambda: shutil.which(program) is not None


def traces() -> bool:
    """Whether strace is here and may attach, which some containers forbid."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "true"], capture_output=True, check=False).returncode == 0


CAPABILITIES: dict[str, Capability] = {
    "root": Capability(lambda: os.geteuid() == 0, "run the tests as root"),
    "systemd": Capability(
        lambda: Path("/run/systemd/system").is_dir(), "run on a machine that systemd has booted"
    ),
    "systemd-analyze": Capability(on_path("systemd-analyze"), "apt-get install systemd"),
    "lab": Capability(
        lambda: not lab.missing(),
        "run as root where namespaces, loop devices and cgroup2 may be used, with systemd, dbus, iproute2",
    ),
    "quota": Capability(quota.present, "apt-get install btrfs-progs, where the kernel mounts btrfs"),
    "block-log": Capability(on_path("qemu-storage-daemon"), "apt-get install qemu-system-common"),
    "deb": Capability(
        lambda: (
            shutil.which("dpkg-deb") is not None
            and Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}").exists()
        ),
        "run on Debian whose own Python is of the version that runs the tests",
    ),
    "pynacl": Capability(lambda: find_spec("nacl") is not None, "run without FLEETFOOT_WITHOUT_PYNACL"),
    "git": Capability(on_path("git"), "apt-get install git"),
    "mosquitto": Capability(on_path("mosquitto"), "apt-get install mosquitto"),
    "postgresql": Capability(stores.present, "apt-get install postgresql"),
    "nats": Capability(on_path("nats-server"), "apt-get install nats-server"),
    "rabbitmq": Capability(on_path("rabbitmq-server"), "apt-get install rabbitmq-server"),
    "tmux": Capability(on_path("tmux"), "apt-get install tmux"),
    "dash": Capability(on_path("dash"), "apt-get install dash"),
    "busybox": Capability(on_path("busybox"), "apt-get install busybox"),
    "zstd": Capability(unzstd.available, "apt-get install libzstd1"),
    "strace": Capability(traces, "apt-get install strace, on a machine that lets processes be traced"),
    "shellcheck": Capability(on_path("shellcheck"), "apt-get install shellcheck"),
}


@dataclass(frozen=True)
class Omission:
    test: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        reasons = "; ".join(f"{name}: {CAPABILITIES[name].remedy}" for name in self.missing)
        return f"{self.test} needs {reasons}"


#: Rooms whose files take longest: begun first, so that no worker is left alone with one at the end.
LONG = ("tests/lab/", "tests/end_to_end/", "tests/crash/", "tests/conformance/", "tests/attack/")

#: Files that go over the same lines thousands of times: measuring them covers nothing that others do not, and
#: more than doubles what they cost. `make test` measures all the others.
REPEATING = (
    "tests/agent/test_lifecycle_stateful.py",
    "tests/manager/test_rollout_mistakes.py",
    "tests/manager/test_rollout_properties.py",
    "tests/manager/test_rollout_stateful.py",
    "tests/mutation/",
    "tests/protocol/test_ed25519.py",
    "tests/protocol/test_resolve_fixpoint.py",
    "tests/sim/test_defects.py",
)

REQUIRED = pytest.StashKey[frozenset[str]]()
OMITTED = pytest.StashKey[list[str]]()
UNMET = pytest.StashKey[Omission]()
FORGOTTEN = pytest.StashKey[bool]()


def forget_pynacl() -> None:
    """Let nothing in this process find PyNaCl, so that `fleetfoot_protocol.keys` works without it.

    Children find it again: this is for tests that stay in one process.
    """
    if "fleetfoot_protocol.keys" in sys.modules:
        raise pytest.UsageError("FLEETFOOT_WITHOUT_PYNACL comes too late: PyNaCl is in use already")
    sys.modules["nacl"] = None  # type: ignore[assignment]  # the import system's word for: there is none


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("FLEETFOOT_WITHOUT_PYNACL"):
        forget_pynacl()
    named = os.environ.get("FLEETFOOT_REQUIRE", "").split(",")
    required = frozenset(name.strip() for name in named if name.strip())
    refuse_unknown(required, "FLEETFOOT_REQUIRE")
    config.stash[REQUIRED] = required
    config.stash[OMITTED] = []


# Last, so that what -k and -m left out is not called omitted.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    present: dict[str, bool] = {}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        # What tests/attack/rows.py set down, for the report from which docs/security.md is made.
        if item.nodeid.startswith(REPEATING) and item.config.pluginmanager.hasplugin("_cov"):
            item.add_marker("no_cover")
        item.user_properties += [("row", json.dumps(mark.args[0])) for mark in item.iter_markers("row")]
        needed = [str(name) for mark in item.iter_markers("needs") for name in mark.args]
        refuse_unknown(needed, item.nodeid)
        for name in needed:
            if name not in present:
                present[name] = CAPABILITIES[name].present()
        omission = Omission(item.nodeid, tuple(name for name in needed if not present[name]))
        if not omission.missing:
            kept.append(item)
        elif config.stash[REQUIRED].isdisjoint(omission.missing):
            config.stash[OMITTED].append(str(omission))
            left_out.append(item)
        else:
            item.stash[UNMET] = omission
            kept.append(item)
    items[:] = sorted(kept, key=lambda item: not item.nodeid.startswith(LONG))
    if left_out:
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if UNMET in item.stash:
        pytest.fail(f"FLEETFOOT_REQUIRE forbids this omission: {item.stash[UNMET]}", pytrace=False)


def pytest_report_header() -> str | None:
    return "Ed25519 in plain Python, PyNaCl is hidden" if sys.modules.get("nacl", ...) is None else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[OMITTED]:
        terminalreporter.section("omitted")
        for omission in config.stash[OMITTED]:
            terminalreporter.line(omission)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["omitted"] = session.config.stash[OMITTED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended: keep what it has left out, unless another has told of it."""
    omitted = node.config.stash[OMITTED]
    told = getattr(node, "workeroutput", {}).get("omitted", [])
    omitted += [omission for omission in told if omission not in omitted]


@pytest.fixture(scope="session", autouse=True)
def _every_thread_ends(pytestconfig: pytest.Config) -> Iterator[None]:
    """Set up before every other fixture, torn down after them: a thread that still runs was forgotten."""
    before = set(threading.enumerate())
    yield
    others = [one for one in threading.enumerate() if one not in before and not one.daemon]
    for one in others:
        one.join(2.0)
    left = sorted(one.name for one in others if one.is_alive())
    pytestconfig.stash[FORGOTTEN] = bool(left)
    assert not left, f"threads that no test has ended: {', '.join(left)}"


def pytest_unconfigure(config: pytest.Config) -> None:
    # The interpreter waits for such a thread, perhaps for ever; the run has failed by now.
    if config.stash.get(FORGOTTEN, False):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def refuse_unknown(names: frozenset[str] | list[str], where: str) -> None:
    unknown = sorted(set(names) - CAPABILITIES.keys())
    if unknown:
        raise pytest.UsageError(
            f"{where} names unknown capabilities: {', '.join(unknown)} (known: {', '.join(CAPABILITIES)})"
        )
