"""How the console bears a large fleet: `python -m bench.console [N ...]` (default: 1000 10000 50000).

For each size, headless at 120x40: seconds from the data being there to a full table, the time of a frame with
twenty changes on the screen, of a page down, and memory. Then, over a real broker and on a pseudo-terminal:
a burst of statuses for ten seconds, during which keys are pressed; from key to bytes.
"""

import asyncio
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.tui.stage import Stage
from tests.tui.terminal import Terminal

from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind
from fleetfoot_tui.screens.fleet import FleetRoom

SIZES = (1_000, 10_000, 50_000)
_FRAMES = 60
_BURST_SECONDS = 10.0
_BURST_RATE = 5_000


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
        frames, pages = [], []
        for number in range(_FRAMES):
            top = number * 37 % max(1, count - 60)
            fill(stage, said[top : top + 20], counter=number + 2)
            before = cpu()
            app.tick()
            await asyncio.sleep(0.001)
            frames.append(cpu() - before)
            before = cpu()
            room.table.action_page(1)
            await asyncio.sleep(0.001)
            pages.append(cpu() - before)
    return {
        "devices": count,
        "first rows s": round(first, 2),
        "all loaded s": round(loaded, 2),
        "frame ms p50/max": f"{statistics.median(frames):.1f}/{max(frames):.1f}",
        "page ms p50/max": f"{statistics.median(pages):.1f}/{max(pages):.1f}",
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


#: The console as a process of its own, on the pseudo-terminal that is its standard input and output.
_CHILD = """
import sys
sys.setswitchinterval(0.001)
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


def burst(count: int, rate: int, seconds: float) -> dict[str, Any]:
    """Key to bytes while `rate` statuses a second come for so long."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    stage = Stage()
    said = payloads(stage, count)
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        host, port = broker.address
        root = Path(folder) / "root.json"
        root.write_bytes(stage.signed_root())
        terminal = Terminal([sys.executable, "-c", _CHILD, f"mqtt://{host}:{port}", str(root)])
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(0)
        client.connect(host, port)
        client.loop_start()
        sent = 0
        stop = threading.Event()

        def publish() -> None:
            nonlocal sent
            start = time.monotonic()
            while not stop.is_set():
                due = int((time.monotonic() - start) * rate)
                while sent < due:
                    name, group, payload = said[sent % count]
                    body = payload.replace(b'"counter": 1,', b'"counter": %d,' % (sent // count + 2))
                    client.publish(topics.build(Kind.STATUS, group=group, device=name), body, qos=0)
                    sent += 1
                time.sleep(0.005)

        try:
            terminal.until(b"broker", 20)
            thread = threading.Thread(target=publish, daemon=True)
            thread.start()
            terminal.until(b"dev-", 20)
            took = []
            begun = time.monotonic()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                # Each of the two changes the heading line of the view, whatever else is drawn.
                took.append(terminal.key(b"f", b"faults only"))
                took.append(terminal.key(b"f", b"by device"))
                time.sleep(0.1)
            ended = time.monotonic()
            stop.set()
            thread.join()
        finally:
            stop.set()
            terminal.close()
            client.disconnect()
            client.loop_stop()
    took.sort()
    return {
        "devices": count,
        "sent/s": int(sent / max(seconds, ended - begun)),
        "keys": len(took),
        "key ms p50": round(statistics.median(took), 1),
        "key ms p95": round(took[int(len(took) * 0.95)], 1),
        "key ms max": round(took[-1], 1),
    }


def main(arguments: list[str]) -> int:
    """Measure and print JSON lines."""
    for count in [int(one) for one in arguments] or SIZES:
        print(json.dumps(asyncio.run(headless(count))), flush=True)
    print(json.dumps(burst(10_000, _BURST_RATE, _BURST_SECONDS)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
