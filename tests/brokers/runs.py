"""`fleetfoot broker check` on the brokers that the documentation speaks of; its table is made from them.

``python -m tests.brokers.runs`` writes the table of docs/brokers.md.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.brokers.mosquitto import Identity, Production, bare
from tests.brokers.nats import Cluster
from tests.brokers.rabbitmq import RabbitMq
from tests.conformance.expectations import VARYING
from tests.end_to_end.town import FLEETFOOT, Process

from fleetfoot_client.broker.report import DEMO, PRODUCTION, ROWS
from fleetfoot_client.broker.rights import Role
from fleetfoot_sim.devices import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "brokers.md"
BEGIN, END = "<!-- made by runs: python -m tests.brokers.runs -->", "<!-- end of what runs made -->"
#: Column of the table -> what was run.
EMBEDDED, BARE, SHIPPED = "embedded amqtt", "Mosquitto, nothing set", "Mosquitto, as we ship it"
NATS = "NATS, three nodes, nothing set"
RABBIT = "RabbitMQ, nothing set"
COLUMNS = (EMBEDDED, BARE, SHIPPED, NATS, RABBIT)
#: Cells of which a run says now this, now that.
_VARYING = {(NATS, row) for broker, row in VARYING if broker == "nats"}
_NOT_ALWAYS = "**not always**"
_WORD = {True: "yes", False: "**no**", None: "not seen"}

Report = dict[str, Any]


def run(url: str, *options: str, identity: Identity | None = None) -> Report:
    """What the command says with --json; its exit code under `exit`."""
    if identity is not None:
        options += ("--ca-file", str(identity.ca), "--cert-file", str(identity.cert))
        options += ("--cert-key-file", str(identity.key))
    done = subprocess.run(
        [FLEETFOOT, "broker", "check", url, "--json", *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout, done.stderr
    return {"exit": done.returncode, **json.loads(done.stdout)}


def together(*commands: Sequence[Any]) -> list[Report]:
    """Several runs at a time: they wait more than they work. Each is (url, options, identity)."""
    with ThreadPoolExecutor(len(commands)) as pool:
        started = [pool.submit(run, url, *options, identity=who) for url, options, who in commands]
        return [one.result() for one in started]


def holds(report: Report) -> dict[str, bool | None]:
    return {check["name"]: check["holds"] for check in report["checks"]}


class Brokers:
    """The brokers of the table, running while entered. A start that fails ends those that run."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.shipped = Production(folder / "shipped")
        self.bare = bare(folder / "bare")
        self.nats = Cluster(folder / "nats", free_ports(1)[0])
        self._rabbit = RabbitMq(folder / "rabbitmq")
        self._embedded = Process(
            [sys.executable, "-m", "fleetfoot_manager.broker", "--port", "0"], folder / "embedded.log"
        )
        self.embedded = ""
        self.cluster = ""
        self.rabbit = ""

    def __enter__(self) -> "Brokers":
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        for broker in (self.shipped, self.bare, self._embedded, self.nats, self._rabbit):
            self._stack.callback(broker.end, signal.SIGTERM)
        self._rabbit.begin()
        self.shipped.start()
        self.bare.start()
        self.cluster = self.nats.start()
        self.embedded = f"mqtt://{self._embedded.start().removeprefix('listening on ')}"
        self.rabbit = self._rabbit.start()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reports(self) -> dict[tuple[str, Role], Report]:
        """Every run of the table, by broker and role."""
        wanted: dict[tuple[str, Role], Sequence[Any]] = {}
        for role, name in ((Role.DEVICE, "dev-001"), (Role.MANAGER, "manager")):
            who = self.shipped.issue(role, name)
            wanted[SHIPPED, role] = (who.url, ("--as", str(role), "--for", PRODUCTION), who)
        wanted[BARE, Role.DEVICE] = (self.bare.url, ("--as", "device", "--for", DEMO), None)
        wanted[EMBEDDED, Role.DEVICE] = (self.embedded, ("--as", "device", "--for", PRODUCTION), None)
        wanted[NATS, Role.DEVICE] = (self.cluster, ("--as", "device", "--for", PRODUCTION), None)
        wanted[RABBIT, Role.DEVICE] = (self.rabbit, ("--as", "device", "--for", PRODUCTION), None)
        return dict(zip(wanted, together(*wanted.values()), strict=True))


def table(reports: dict[tuple[str, Role], Report]) -> str:
    """The table of the page: what is denied as a device sees it, everything else as who sees most."""
    columns: list[dict[str, bool | None]] = []
    for broker in COLUMNS:
        found = holds(reports[broker, Role.DEVICE])
        if (broker, Role.MANAGER) in reports:
            seen = holds(reports[broker, Role.MANAGER])
            found |= {name: value for name, value in seen.items() if not name.startswith("denied")}
        columns.append(found)
    lines = [f"| check | {' | '.join(COLUMNS)} | needed for | where it does not hold |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for name, row in ROWS.items():
        cells = [
            _NOT_ALWAYS if (broker, name) in _VARYING else _WORD[column[name]]
            for broker, column in zip(COLUMNS, columns, strict=True)
        ]
        needed = row.needed_for or "nothing"
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {needed} | {row.consequence} |")
    return "\n".join(lines)


def on_page(text: str) -> str:
    """The table that stands on the page."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Brokers(Path(folder)) as brokers:
        fresh = table(brokers.reports())
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{fresh}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
