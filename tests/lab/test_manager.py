"""The manager as the service that docs/manager.md makes of it: the shipped unit, as it is, under systemd."""

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import Lab
from tests.lab.host import Host
from tests.support.waiting import until

from fleetfoot_manager import migrate

pytestmark = pytest.mark.needs("lab")

ROOT = Path(__file__).parents[2]
UNIT = "fleetfoot-manager.service"
USER = "fleetfoot-manager"
STATE = "/var/lib/fleetfoot-manager"
FIRST_START = """\
[Service]
ExecStart=
ExecStart=/usr/bin/fleetfoot manager run --dir /var/lib/fleetfoot-manager --status 127.0.0.1:8091 \\
    --root /etc/fleetfoot/root.json
"""

#: Where the host has this checkout, what it imports, and the interpreter.
CHECKOUT, SITE, PYTHON = "/usr/lib/checkout", "/usr/lib/site", "/usr/lib/python"
_ROOMS = ("agent", "client", "manager", "protocol", "sim", "tui")
PROGRAM = f"""\
#!/bin/sh
export LD_LIBRARY_PATH={PYTHON}/lib
export PYTHONPATH={":".join((SITE, *(f"{CHECKOUT}/{room}" for room in _ROOMS)))}
exec {PYTHON}/bin/python{sys.version_info.major}.{sys.version_info.minor} -sc \\
    'import sys; from fleetfoot_client.cli import main; sys.argv[0] = "fleetfoot"; sys.exit(main())' "$@"
"""
#: What another program would leave of the store, for this one.
_STAMP = """\
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as store:
    store.execute("UPDATE alembic_version SET version_num = ?", (sys.argv[2],))
"""


class Service:
    """A host on which the manager was made and started once, by the words of its page."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def set_up(self) -> None:
        host = self.host
        host.path("/usr/bin/fleetfoot").write_text(PROGRAM)
        host.path("/usr/bin/fleetfoot").chmod(0o755)
        host.run("mkdir", "-p", "/srv/keys", "/etc/fleetfoot")
        for name in ("root", "release", "alice"):
            self.fleetfoot("key", "new", f"/srv/keys/{name}.key")
        manager = f"{CHECKOUT}/systemd/manager"
        self.sh(
            f"cp {manager}/{USER}.sysusers /usr/lib/sysusers.d/{USER}.conf",
            f"systemd-sysusers {USER}.conf",
            f"cp {manager}/{UNIT} /etc/systemd/system/",
            f"install -d -m 0700 -o {USER} -g {USER} {STATE}",
            f"runuser -u {USER} -- fleetfoot manager init --dir {STATE}"
            " --fleet bakery --operator alice=/srv/keys/alice.key.pub",
        )
        self.fleetfoot(
            *("trust", "init", "--request", f"{STATE}/root-request.json", "--root-key", "/srv/keys/root.key"),
            *("--release-key", "/srv/keys/release.key.pub", "--out", "/etc/fleetfoot/root.json"),
        )
        self.fleetfoot(
            *("profile", "set", "bakery", "--broker", "mqtt://127.0.0.1:1883", "--operator", "alice"),
            *("--key", "/srv/keys/alice.key", "--root", "/etc/fleetfoot/root.json"),
        )
        drop_in = f"/etc/systemd/system/{UNIT}.d"
        host.run("mkdir", drop_in)
        host.path(f"{drop_in}/override.conf").write_text(FIRST_START)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", UNIT)
        # From here on the unit is the shipped one, to the letter.
        self.sh(
            f"systemctl stop {UNIT}", f"rm -r {drop_in}", "systemctl daemon-reload", f"systemctl start {UNIT}"
        )

    def sh(self, *lines: str) -> str:
        return self.host.run("sh", "-ec", "\n".join(lines))

    def fleetfoot(self, *words: str, check: bool = True) -> str:
        return self.host.run("fleetfoot", *words, check=check)

    def facts(self, *names: str) -> dict[str, str]:
        return self.host.show(UNIT, *names)

    def enroll(self, device: str) -> None:
        self.fleetfoot(
            "device", "enroll", "--id", device, "--group", "ovens", "--key", "/srv/keys/alice.key.pub"
        )

    def devices(self) -> list[str]:
        listed: dict[str, Any] = json.loads(self.fleetfoot("device", "list", "--json"))
        return [one["id"] for one in listed["devices"]]

    def start(self) -> None:
        """Comes back when the manager has said that it is ready, and not before."""
        self.host.run("systemctl", "start", UNIT)
        assert self.facts("ActiveState") == {"ActiveState": "active"}

    def start_is_refused(self) -> str:
        """The start fails, and is not tried again; what the log says about it. The status says it too."""
        said = self.host.run("systemctl", "start", UNIT, check=False)
        assert "control process exited with error code" in said, said
        over = {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78", "NRestarts": "0"}
        assert self.facts(*over) == over
        invocation = self.facts("InvocationID")["InvocationID"]
        logged = self.host.journal("-o", "cat", "-u", UNIT, f"_SYSTEMD_INVOCATION_ID={invocation}")
        status = self.facts("StatusText")["StatusText"]
        assert status
        assert f"error: {status}" in logged
        self.host.run("systemctl", "reset-failed", UNIT)
        return logged

    def migrate(self, *words: str) -> None:
        program = ("fleetfoot", "manager", "migrate", "--dir", STATE, *words)
        self.host.run("runuser", "-u", USER, "--", *program)

    def stamp(self, version: str) -> None:
        """Let the store say that it has this version."""
        program = (f"{PYTHON}/bin/python3", "-c", _STAMP, f"{STATE}/manager.sqlite3", version)
        self.host.run("runuser", "-u", USER, "--", *program)


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Service]:
    site = sysconfig.get_path("purelib")
    host = lab.bare_host(sys.base_prefix, PYTHON, str(ROOT), CHECKOUT, site, SITE)
    try:
        host.format()
        host.boot()
        made = Service(host)
        made.set_up()
        yield made
    except BaseException:
        if host.pid:
            print(host.journal("-u", UNIT))
        raise
    finally:
        host.remove()


def test_the_shipped_unit_runs_it_and_starts_it_again(service: Service) -> None:
    service.start()
    service.enroll("oven-1")
    before = service.facts("MainPID", "User", "NRestarts")
    assert (before["User"], before["NRestarts"]) == (USER, "0")
    service.host.run("kill", "-KILL", before["MainPID"])
    until(lambda: service.facts("NRestarts") == {"NRestarts": "1"}, "systemd starts it again")
    until(lambda: service.facts("ActiveState") == {"ActiveState": "active"}, "and it is ready")
    assert service.facts("MainPID")["MainPID"] != before["MainPID"]
    assert "oven-1" in service.devices()
    service.host.run("systemctl", "stop", UNIT)
    ended = {"ActiveState": "inactive", "Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0"}
    assert service.facts(*ended) == ended


def test_the_manager_itself_is_upgraded_and_a_store_of_another_version_refused(service: Service) -> None:
    service.start()
    service.enroll("oven-3")
    service.host.run("systemctl", "stop", UNIT)
    former = migrate.versions()[-2]
    service.migrate("--to", former)
    said = service.start_is_refused()
    assert f"the store has version {former}, this program reads and writes {migrate.CURRENT}" in said
    assert f"fleetfoot manager migrate --dir {STATE}" in said
    service.migrate()
    service.start()
    assert "oven-3" in service.devices()
    service.host.run("systemctl", "stop", UNIT)
    service.stamp("99")
    said = service.start_is_refused()
    assert f"the store has version 99, this program reads and writes {migrate.CURRENT}" in said
    assert "run the program that wrote it" in said
    service.stamp(migrate.CURRENT)


def test_a_store_that_is_somebody_elses_or_damaged_is_refused_once(service: Service) -> None:
    service.start()
    service.enroll("oven-4")
    service.host.run("systemctl", "stop", UNIT)
    file = f"{STATE}/manager.sqlite3"
    service.sh(f"chown root:root {file}")
    said = service.start_is_refused()
    assert f"may not read and write {file}" in said
    assert f"chown -R USER {STATE}" in said
    service.sh(f"chown {USER}:{USER} {file}", f"cp -p {file} {file}.whole", f"echo no database > {file}")
    said = service.start_is_refused()
    assert "file is not a database" in said
    assert "restore the newest backup" in said
    service.sh(f"mv {file}.whole {file}")
    service.start()
    assert "oven-4" in service.devices()
    service.host.run("systemctl", "stop", UNIT)
