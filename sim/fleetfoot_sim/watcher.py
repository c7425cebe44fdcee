"""A process that only subscribes, counts, and says what it sees: the demo's independent witness.

``python -m fleetfoot_sim.watcher SPEC`` prints a line of JSON whenever something has changed, at most
every 0.2 s, and ends with its standard input. SPEC is a JSON file: broker (host, port), root (path),
component, good and bad version, members.
"""

import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.tally import Member, Tally

_KINDS = (Kind.GROUP_DESIRED, Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION)
_INTERVAL = 0.2


def _cell(status: Status, component: str) -> dict[str, str]:
    found = status.components.get(component)
    if found is None:
        return {"state": "idle", "version": ""}
    last = found.outcomes[-1].outcome if found.outcomes else ""
    return {
        "state": str(found.state),
        "version": found.running.version if found.running else "",
        "last": str(last),
    }


def snapshot(tally: Tally, spec: dict[str, Any]) -> dict[str, Any]:
    """What a screen needs: the figures so far, a cell for each device, a row for each rollout."""
    return {
        "result": tally.result(spec["good"], spec["bad"]),
        "seen": len(tally.statuses),
        "devices": {d: _cell(s, spec["component"]) for d, s in sorted(tally.statuses.items())},
        "rollouts": {
            p.rollout: {
                "version": p.version,
                "state": p.state,
                "reason": p.reason,
                "wave": p.wave,
                "waves": list(p.waves),
                "counts": p.counts,
            }
            for p in tally.progress.values()
        },
    }


def main(arguments: list[str]) -> int:
    """Watch until standard input ends. Returns 0."""
    spec = json.loads(Path(arguments[0]).read_text("utf-8"))
    root = trust.first_root(Path(spec["root"]).read_bytes())
    members = [Member(m["id"], m["group"], m["key"], m.get("labels", {})) for m in spec["members"]]
    tally = Tally(root, members, spec["component"])
    inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="watcher")
    filters = [(topics.subscription(kind), 1) for kind in _KINDS]
    client.on_connect = lambda c, *_: c.subscribe(filters)
    client.on_message = lambda _c, _u, m: inbox.put((m.topic, bytes(m.payload)))
    client.connect(spec["host"], spec["port"])
    client.loop_start()
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        _watch(inbox, ended, tally, spec)
    finally:
        client.disconnect()
        client.loop_stop()
    return 0


def _watch(
    inbox: "queue.SimpleQueue[tuple[str, bytes]]", ended: threading.Event, tally: Tally, spec: dict[str, Any]
) -> None:
    last = ""
    due = 0.0
    while not ended.is_set():
        try:
            name, payload = inbox.get(timeout=_INTERVAL)
            topic = topics.parse(name)
            if topic is not None:
                tally.take(topic, payload)
        except queue.Empty:
            pass
        if time.monotonic() < due:
            continue
        due = time.monotonic() + _INTERVAL
        line = json.dumps(snapshot(tally, spec))
        if line != last:
            print(line, flush=True)
            last = line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
