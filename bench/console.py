"""How the console bears a large fleet: processor time of a frame with twenty changes, in table and grid;
over Mosquitto and on a pseudo-terminal, how soon the fleet is shown, and the time from a key to its bytes
while 5 000 statuses arrive a second for ten seconds.

`python -m bench.console [N ...]` (default: 1000 10000 50000) prints JSON: also pages and memory, what the
console costs under that burst (1 is one processor), and how far behind it was at its end.
"""

import asyncio
import json
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.tui.stage import Stage
from tests.tui.terminal import Terminal

from bench.common import Figure, cost_of, mosquitto
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.load.mqtt import connect_packet, publish_packet
from fleetfoot_tui import swift
from fleetfoot_tui.screens.fleet import FleetRoom
from fleetfoot_tui.screens.grid import GridRoom

SIZES = (1_000, 10_000, 50_000)
_FRAMES = 60
#: Seconds within which the toolkit has drawn what changed; processor time is what is measured.
_DRAWN = 0.04
_BURST_SECONDS = 10.0
_BURST_RATE = 5_000
_FRAME_MS = 16.0
_KEY_MS = 100.0


def payloads(stage: Stage, count: int) -> list[tuple[str, str, bytes]]:
    """(device, group, status) of so many devices. Not signed: that would take minutes."""
    quiet = json.loads(stage.status("x", "g", stage.ended("1.1.0", "completed", "1.1.0")).payload())
    failed = stage.ended("1.2.0", "failed", "1.1.0", "upgrade_disk_full")
    hurt = json.loads(stage.status("x", "g", failed).payload())
    found = []
    for n in range(count):
        name, group = f"dev-{n:06}", f"group-{n % 12:02}"
        said = {**(hurt if n % 50 == 0 else quiet), "device": name, "group": group}
        found.append((name, group, json.dumps(said).encode()))
    return found


def fill(stage: Stage, said: list[tuple[str, str, bytes]], *, counter: int = 0) -> None:
    """Put statuses into the inbox, newer than before if a counter is given."""
    for name, group, payload in said:
        body = payload.replace(b'"counter": 1,', b'"counter": %d,' % counter) if counter else payload
        stage.put(Kind.STATUS, body, group=group, device=name)
        if not counter:
            stage.put(Kind.PRESENCE, b"online", group=group, device=name)


def cpu() -> float:
    """Milliseconds of this process's time so far."""
    return time.process_time() * 1000


async def headless(count: int) -> dict[str, Any]:
    """Loading, frames and pages at one size."""
    stage = Stage()
    said = payloads(stage, count)
    app = stage.console()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        fill(stage, said)
        start = time.monotonic()
        first = 0.0
        while len(stage.inbox):
            app.tick()
            await asyncio.sleep(0)
            if not first and len(app.fleet.devices) >= 37:
                first = time.monotonic() - start
        room = app.screen
        if not isinstance(room, FleetRoom):
            raise SystemExit("the console does not begin with the fleet")
        room.renew()
        await pilot.pause()
        loaded = time.monotonic() - start
        if len(room.table.keys) != count:
            raise SystemExit(f"{len(room.table.keys)} of {count} devices are shown")
        changes = Changing(stage, said)
        frames, pages = await _frames(changes, app.tick), []
        for _ in range(_FRAMES):
            pages += await _frames(lambda: None, partial(room.table.action_page, 1), 1)
        await pilot.press("7")
        await pilot.pause()
        if not isinstance(app.screen, GridRoom):
            raise SystemExit("7 does not lead to the grid")
        grid = await _frames(changes, app.tick)
        moves = await _frames(lambda: None, partial(app.screen.grid.action_row, 1))
    return {
        "devices": count,
        "first rows s": round(first, 2),
        "all loaded s": round(loaded, 2),
        **_of("frame", frames),
        **_of("page", pages),
        **_of("grid frame", grid),
        **_of("grid move", moves),
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


class Changing:
    """Twenty newer statuses for each call, of others each time; among them of those on the screen."""

    def __init__(self, stage: Stage, said: list[tuple[str, str, bytes]]) -> None:
        self._stage, self._said, self._turn = stage, said, 1

    def __call__(self) -> None:
        self._turn += 1
        top = self._turn * 37 % max(1, len(self._said) - 60)
        fill(self._stage, self._said[:4] + self._said[top : top + 16], counter=self._turn)


async def _frames(before: Callable[[], None], act: Callable[[], object], times: int = _FRAMES) -> list[float]:
    """Milliseconds of processor of doing it and drawing what follows; `before` is not measured."""
    took = []
    for _ in range(times):
        before()
        start = cpu()
        act()
        await asyncio.sleep(_DRAWN)
        took.append(cpu() - start)
    return took


def _of(name: str, took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {
        f"{name} ms p50": round(statistics.median(ordered), 1),
        f"{name} ms p95": round(ordered[int(len(ordered) * 0.95) - 1], 1),
        f"{name} ms max": round(ordered[-1], 1),
    }


#: The console as a process of its own, on the pseudo-terminal that is its standard input and output.
_CHILD = """
import sys
from fleetfoot_tui import swift
swift.prepare()
from pathlib import Path
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import trust
from fleetfoot_tui.app import Console
from fleetfoot_tui.asking import Nobody
from fleetfoot_tui.feed import Feed
root = trust.first_root(Path(sys.argv[2]).read_bytes())
profile = Profile("bench", sys.argv[1], "alice", Path("/dev/null"), Path(sys.argv[2]))
with Feed(profile) as feed:
    Console(root, feed, Nobody(), source=feed).run()
"""


class Publisher:
    """Statuses at a rate, QoS 1, ready-made packets on a bare socket: it must cost next to nothing itself."""

    def __init__(self, port: int, said: list[tuple[str, str, bytes]]) -> None:
        self.sent = 0
        self._said = said
        self._stop = threading.Event()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(connect_packet("bench", keepalive=0))
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._acks, self._send)]
        self._rate = 0

    def _acks(self) -> None:
        while self._socket.recv(1 << 16):
            pass

    def publish(self, name: str, group: str, payload: bytes, *, retain: bool = False) -> None:
        """One status."""
        topic = topics.build(Kind.STATUS, group=group, device=name)
        self.sent += 1
        self._socket.sendall(publish_packet(topic, payload, self.sent % 65535 + 1, retain=retain))

    def begin(self, rate: int) -> None:
        """Everything once, retained, as fast as it goes; then, once `rate` is set, at that rate."""
        self._threads[0].start()
        for name, group, payload in self._said:
            self.publish(name, group, payload, retain=True)
        self.sent = 0
        self._rate = rate

    def burst(self) -> None:
        """Go on until `end`."""
        self._threads[1].start()

    def _send(self) -> None:
        start = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - start) * self._rate)
            while self.sent < due:
                turn, place = divmod(self.sent, len(self._said))
                name, group, payload = self._said[place]
                self.publish(name, group, payload.replace(b'"counter": 1,', b'"counter": %d,' % (turn + 2)))
            time.sleep(0.005)

    def end(self) -> None:
        """No more."""
        self._stop.set()
        if self._threads[1].is_alive():
            self._threads[1].join()

    def close(self) -> None:
        """Leave."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def burst(count: int, rate: int, seconds: float) -> dict[str, Any]:
    """Key to bytes while `rate` statuses a second come for so long; before it, how soon all are there."""
    stage = Stage()
    said = payloads(stage, count)
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder) / "broker") as (port, broker):
        root = Path(folder) / "root.json"
        root.write_bytes(stage.signed_root())
        publisher = Publisher(port, said)
        publisher.begin(rate)
        begun = time.monotonic()
        terminal = Terminal([sys.executable, "-c", _CHILD, f"mqtt://127.0.0.1:{port}", str(root)])
        try:
            terminal.until(b"dev-", 20)
            first = time.monotonic() - begun
            terminal.until(b"%d of %d devices" % (count, count), 60)
            whole = time.monotonic() - begun
            before, broker_before = cost_of(terminal.process.pid), cost_of(broker.pid)
            publisher.burst()
            took = []
            begun = time.monotonic()
            while time.monotonic() < begun + seconds:
                # Each of the two changes the heading line of the view, whatever else is drawn.
                took.append(terminal.key(b"f", b"faults only"))
                took.append(terminal.key(b"f", b"by device"))
                terminal.rest(0.1)
            ended = time.monotonic()
            publisher.end()
            sent = publisher.sent
            after, broker_after = cost_of(terminal.process.pid), cost_of(broker.pid)
            publisher.publish("the-last", "group-00", said[0][2], retain=True)
            terminal.until(b"%d of %d devices" % (count + 1, count + 1), 60)
            behind = time.monotonic() - ended
        finally:
            publisher.end()
            terminal.close()
            publisher.close()
    took.sort()
    return {
        "devices": count,
        "first device s": round(first, 2),
        "every device s": round(whole, 2),
        "sent/s": int(sent / (ended - begun)),
        "keys": len(took),
        "key ms p50": round(statistics.median(took), 1),
        "key ms p95": round(took[int(len(took) * 0.95)], 1),
        "key ms max": round(took[-1], 1),
        "console cpu": round((after.cpu - before.cpu) / (ended - begun), 2),
        "broker cpu": round((broker_after.cpu - broker_before.cpu) / (ended - begun), 2),
        "behind s": round(behind, 2),
    }


def figures(quick: bool) -> list[Figure]:
    """For each size; the limits are what a person feels, so that they are the same on every machine."""
    found = []
    for count in (300,) if quick else SIZES:
        drawn = asyncio.run(headless(count))
        for what in ("frame", "grid frame"):
            note = f"median {drawn[f'{what} ms p50']} ms"
            found.append(
                Figure(f"{count} devices: a {what}, p95", drawn[f"{what} ms p95"], "ms", _FRAME_MS,
                       "sixty frames a second", at_most=1.0, note=note)
            )  # fmt: skip
    for count in (300,) if quick else SIZES:
        rate, seconds = (300, 1.0) if quick else (_BURST_RATE, _BURST_SECONDS)
        told = burst(count, rate, seconds)
        label = f"{count} devices, {told['sent/s']} statuses/s"
        note = (
            f"median {told['key ms p50']} ms, {told['keys']} keys, console {told['console cpu']} processors"
        )
        found += [
            Figure(f"{count} devices: from the broker's first message to all of them shown",
                   told["every device s"], "s", note=f"the first after {told['first device s']} s"),
            Figure(f"{label}: from key to bytes, p95", told["key ms p95"], "ms", _KEY_MS,
                   "what feels at once", at_most=1.0, note=note),
        ]  # fmt: skip
    return found


def main(arguments: list[str]) -> int:
    """Measure and print JSON lines."""
    swift.prepare()
    sizes = [int(one) for one in arguments] or list(SIZES)
    for count in sizes:
        print(json.dumps(asyncio.run(headless(count))), flush=True)
    for count in sizes:
        print(json.dumps(burst(count, _BURST_RATE, _BURST_SECONDS)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
