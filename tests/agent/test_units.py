"""The shipped units: how much they expose, by systemd's own measure, and what the contract fixes in them."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from fleetfoot_agent import hookunit, systemd
from fleetfoot_agent.adopt import auxiliary, dropin

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted((FOLDER / "units").iterdir())

#: Services that stand before a start or a restart: a limit on their own starts would leave a device stuck.
UNLIMITED = [path for path in UNITS if path.suffix == ".service"]


def settings(name: str) -> list[tuple[str, str]]:
    """Every setting of a unit in order, repeated ones too."""
    lines = (FOLDER / "units" / name).read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return [(key, value) for key, value in pairs]


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize(("unit", "limit"), [("fleetfoot-courier", 1.5), ("fleetfoot-worker", 2.5)])
def test_a_resident_unit_exposes_little(unit: str, limit: float) -> None:
    path = FOLDER / "units" / f"{unit}.service"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert match is not None, told
    assert float(match[1]) <= limit, told


@pytest.mark.parametrize("path", UNLIMITED, ids=lambda path: path.name)
def test_no_unit_of_the_agent_can_run_into_a_start_limit(path: Path) -> None:
    assert ("StartLimitIntervalSec", "0") in settings(path.name)


def test_the_worker_reaches_nothing_but_loopback() -> None:
    found = settings("fleetfoot-worker.service")
    assert [pair for pair in found if pair[0].startswith("IPAddress")] == [
        ("IPAddressDeny", "any"),
        ("IPAddressAllow", "localhost"),
    ]
    assert ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX") in found


def test_the_worker_comes_back_as_the_contract_says() -> None:
    found = settings("fleetfoot-worker.service")
    assert ("Restart", "on-failure") in found
    assert ("RestartSec", "10s") in found
    assert ("PathExists", "/run/fleetfoot/wake/now") in settings("fleetfoot-worker.path")
    timer = settings("fleetfoot-worker.timer")
    assert {("OnBootSec", "0"), ("OnUnitInactiveSec", "6h")} <= set(timer)


def test_each_half_writes_only_where_it_owns() -> None:
    courier, worker = (settings(f"fleetfoot-{name}.service") for name in ("courier", "worker"))
    written = [" ".join(v for k, v in half if k == "ReadWritePaths").split() for half in (courier, worker)]
    assert written[0] == ["/var/lib/fleetfoot/spool/in", "-/var/lib/fleetfoot/courier", "/run/fleetfoot/wake"]
    assert set(written[0]) & set(written[1]) == {"/run/fleetfoot/wake"}
    assert (dict(courier)["User"], dict(worker)["User"]) == ("fleetfoot-courier", "fleetfoot")
    assert {("ProtectSystem", "strict"), ("NoNewPrivileges", "yes")} <= set(courier) & set(worker)


def test_code_and_units_name_the_same_places() -> None:
    folders = (FOLDER / "fleetfoot.tmpfiles").read_text()
    for place in (systemd.STARTED, systemd.RESTART, hookunit.WISHES, hookunit.TOLD, auxiliary.SAVED):
        assert f"d {place} " in folders
    assert ("PathExists", f"{hookunit.WISHES}/%i") in settings("fleetfoot-hook@.path")
    hook, keep = ((FOLDER / f"fleetfoot-{name}").read_text() for name in ("hook", "keep"))
    assert f"wish={hookunit.WISHES}/$unit\ntold={hookunit.TOLD}/$unit\n" in hook
    assert str(auxiliary.SAVED) in keep
    for unit, verb in zip(auxiliary.keepers("%i"), ("set-aside", "put-back"), strict=True):
        found = settings(unit.replace("%i", ""))
        assert ("ExecStart", f"/usr/lib/fleetfoot/fleetfoot-keep {verb} %i") in found
        assert ("ReadWritePaths", str(auxiliary.SAVED)) in found
    assert ("PathExists", f"{systemd.RESTART}/%i") in settings("fleetfoot-restart@.path")
    assert str(systemd.STARTED) in (FOLDER / "fleetfoot-note").read_text()
    assert (FOLDER / Path(dropin.NOTE).name).is_file()
    guard = dict(settings("fleetfoot-guard@.service"))
    assert guard["ExecStart"] == f"/usr/lib/fleetfoot/fleetfoot-guard {dropin.INSTALL_ROOT}/%i"


def test_every_unit_parses_as_sections_and_settings() -> None:
    for path in UNITS:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(path.read_text())
        assert "Unit" in parser.sections()


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize(
    "script", ["install", *(f"fleetfoot-{name}" for name in ("note", "launcher", "hook", "keep", "rollback"))]
)
def test_shellcheck_finds_nothing_in_the_scripts(script: str) -> None:
    told = subprocess.run(["shellcheck", "-s", "sh", str(FOLDER / script)], capture_output=True, text=True)
    assert told.stdout == ""
    assert told.returncode == 0


def test_a_package_gets_every_file_where_systemd_looks_for_it(tmp_path: Path) -> None:
    subprocess.run([FOLDER / "install", str(tmp_path)], check=True)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"usr/lib/systemd/system/{path.name}" for path in UNITS} | {
        "usr/lib/fleetfoot/fleetfoot-guard",
        "usr/lib/fleetfoot/fleetfoot-note",
        "usr/lib/fleetfoot/fleetfoot-hook",
        "usr/lib/fleetfoot/fleetfoot-keep",
        "usr/lib/fleetfoot/fleetfoot-rollback",
        "usr/lib/fleetfoot/fleetfoot-launcher",
        "usr/lib/fleetfoot/files.sha256",
        "usr/lib/sysusers.d/fleetfoot.conf",
        "usr/lib/tmpfiles.d/fleetfoot.conf",
    }
    guard = tmp_path / "usr/lib/fleetfoot/fleetfoot-guard"
    assert guard.read_bytes() == (FOLDER / "fleetfoot-guard").read_bytes()
    assert guard.stat().st_mode & 0o777 == 0o755
