"""What the courier costs a device while nothing happens, connected to a Mosquitto with and without TLS.

A process of its own from the tree that a package brings: resident memory once it is connected and at rest,
and processor time over the seconds that follow (keep-alive every 60 s, as by default).
"""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from bench.common import ROOT, Figure, cost_of, free_port, mosquitto, until
from fleetfoot_client import agent_payload

#: (whether by TLS, MiB that it may have)
KINDS = ((False, 22.0), (True, 25.0))

#: With nothing of this environment, whose editable packages would be loaded, too.
_START = "import sys; sys.path += ['{site}']; from fleetfoot_agent.cli import main; sys.exit(main())"

_TOML = """\
[agent]
device = "dev-001"
group = "g-one"
state_dir = "state"
run_dir = "run"
install_root = "opt"
[broker]
url = "{url}"
{tls}
[components.kiosk]
"""


def figures(quick: bool) -> list[Figure]:
    """Memory and processor time of both kinds."""
    seconds = 3.0 if quick else 30.0
    found = []
    for tls, most in KINDS:
        memory, own, cpu = _measure(tls, seconds)
        kind = "with TLS" if tls else "without TLS"
        found.append(Figure(f"idle courier {kind}, resident", memory, "MiB", most, "the aim", at_most=1.0))
        found.append(
            Figure(f"idle courier {kind}, its own pages alone", own, "MiB", note="Private_* of smaps_rollup")
        )
        found.append(
            Figure(
                f"idle courier {kind}, processor", cpu / seconds * 100, "% of one", note=f"over {seconds:g} s"
            )
        )
    return found


def _measure(tls: bool, seconds: float) -> tuple[float, float, float]:
    """MiB resident, MiB of that shared with nobody, seconds of processor."""
    folder = Path(tempfile.mkdtemp(prefix="fleetfoot-bench-"))
    try:
        with _broker(folder, tls) as (url, lines):
            (folder / "agent.toml").write_text(_TOML.format(url=url, tls=lines))
            (folder / "state/spool/in").mkdir(parents=True)
            (folder / "run/wake").mkdir(parents=True)
            site = agent_payload.lay(folder / "agent") / "site"
            command = [sys.executable, "-IS", "-c", _START.format(site=site), "courier", "--config"]
            with (folder / "log").open("wb") as log:
                courier = subprocess.Popen([*command, str(folder / "agent.toml")], stderr=log)
            try:
                link = folder / "state/spool/in/link.json"
                until(
                    lambda: link.exists() and json.loads(link.read_text())["up"], "the courier is connected"
                )
                time.sleep(1.0)  # what connecting has left to do
                before = cost_of(courier.pid)
                time.sleep(seconds)  # what is measured: nothing happens
                after = cost_of(courier.pid)
                return after.rss, _own(courier.pid), after.cpu - before.cpu
            finally:
                courier.terminate()
                courier.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own(pid: int) -> float:
    """MiB of pages that no other process has mapped."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@contextmanager
def _broker(folder: Path, tls: bool) -> Iterator[tuple[str, str]]:
    """(url, more lines of [broker]) of a Mosquitto."""
    if not tls:
        with mosquitto(folder / "mosquitto") as (port, _):
            yield f"mqtt://127.0.0.1:{port}", ""
        return
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    port = free_port()
    (folder / "server.pem").chmod(0o644)
    text = f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n"
    text += f"certfile {folder}/server.pem\nkeyfile {folder}/server.pem\n"
    (folder / "tls.conf").write_text(text)
    broker = subprocess.Popen(
        ["mosquitto", "-c", str(folder / "tls.conf")], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        until(lambda: _answers(port, context), "the broker answers by TLS")
        yield f"mqtts://localhost:{port}", 'ca_file = "ca.pem"'
    finally:
        broker.terminate()
        broker.wait(20)


def _answers(port: int, context: ssl.SSLContext) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
            context.wrap_socket(plain, server_hostname="localhost").close()
    except OSError:
        return False
    return True
