"""The ceremony of docs/keys.md with every real part: all keys rotated while a device sleeps."""

import signal
import time
from pathlib import Path

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_protocol import trust
from fleetfoot_sim.scene import OPERATOR, tool

DEVICE = "dev-001"


def retained(port: int, *names: str) -> dict[str, bytes]:
    """What the broker holds on these topics, once it is there."""
    held: dict[str, bytes] = {}
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"reader-{time.monotonic_ns()}")
    client.on_connect = lambda c, *_: c.subscribe([(name, 1) for name in names])
    client.on_message = lambda _c, _u, m: held.__setitem__(m.topic, bytes(m.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        until(lambda: len(held) == len(names), f"the broker holds {names}")
    finally:
        client.disconnect()
        client.loop_stop()
    return dict(held)


def rotated(town: Town, have: int, *words: object, signers: tuple[Path, ...]) -> Path:
    out = town.folder / f"root.{have + 1}.json"
    keys = [word for path in signers for word in ("--root-key", str(path))]
    before = town.folder / f"root.{have}.json"
    tool("trust", "rotate", "--root", str(before), *keys, *map(str, words), "--out", str(out))
    return out


def test_every_key_is_rotated_while_a_device_sleeps(town: Town) -> None:
    town.add(DEVICE)
    town.await_versions({DEVICE: "1.0.0"})
    town.publish("1.0.0")
    town.await_state(town.rollout("1.0.0", "--immediate", "--settle", "0"), "completed")
    town.hosted[DEVICE].disconnect()
    town.witness.close()  # who believes the old director, as an integrator does until told of the new root
    town.manager.end(signal.SIGTERM)

    keys, manager = town.folder / "keys", town.scene.manager
    for name in ("root-2", "release-2", f"{OPERATOR}-2"):
        tool("key", "new", str(keys / f"{name}.key"))
    tool("key", "new", str(manager / "director.key.new"))
    (town.folder / "root.1.json").write_bytes(town.scene.root.read_bytes())
    old_root, new_root = keys / "root.key", keys / "root-2.key"
    old_director = next(iter(town.root.roles.director.keys))
    replace_release = ("--replace", keys / "release.key.pub", keys / "release-2.key.pub")
    replace_people = ("--replace", f"{town.scene.operator_key}.pub", keys / f"{OPERATOR}-2.key.pub")
    replace_root = ("--replace", f"{old_root}.pub", f"{new_root}.pub")
    replace_director = ("--replace", old_director, manager / "director.key.new.pub")
    made = [
        rotated(town, 1, *replace_release, *replace_people, signers=(old_root,)),
        rotated(town, 2, *replace_root, signers=(old_root, new_root)),
        rotated(town, 3, *replace_director, signers=(new_root,)),
    ]
    tool("trust", "verify", str(town.folder / "root.1.json"), *map(str, made))

    (manager / "director.key.new").replace(manager / "director.key")
    for path in made:
        town.manager.command += ["--root", str(path)]
    town.scene.root.write_bytes(made[-1].read_bytes())  # what operators and their tools rely on from now on
    town.scene.operator_key.write_bytes((keys / f"{OPERATOR}-2.key").read_bytes())
    town.manager.start()

    last = trust.first_root(made[-1].read_bytes())
    steps = [f"ff/v1/trust/root/{step}" for step in (1, 2, 3, 4)]
    order, heartbeat = "ff/v1/groups/kitchens/desired/kiosk", "ff/v1/groups/kitchens/heartbeat"
    held = retained(town.broker_port, *steps, order, heartbeat)
    assert [trust.first_root(held[step]).version for step in steps] == [1, 2, 3, 4]
    assert trust.verify_desired(held[order], last).epoch == 2
    assert trust.verify_heartbeat(held[heartbeat], last).group == "kitchens"

    tool("release", "sign", str(town.scene.bundle("1.1.0")), "--key", str(keys / "release-2.key"))
    town.publish("1.1.0")
    # The release that only the old key signed is not even planned any more.
    start = ("rollout", "start", "--component", "kiosk", "--group", "kitchens", "--version")
    town.fleetfoot(*start, "1.0.0", status=5)
    town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.root, town._witness = last, None
    town.hosted[DEVICE].connect()
    town.await_versions({DEVICE: "1.1.0"})
    until(lambda: town.witness.tally.statuses[DEVICE].root == 4, "the device has followed to root 4")
