"""In what the brokers differ, with the reason: the only place that knows. The stories are the same."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Expectation:
    """What a broker is expected to do, and why it does."""

    value: bool
    reason: str


@dataclass(frozen=True)
class Expectations:
    #: A retained message is there after the broker was stopped in good order and started again.
    retained_after_stop: Expectation
    #: The same after it was killed; nobody had it write its disk.
    retained_after_kill: Expectation
    #: A second connection of one client id ends the first.
    takeover: Expectation
    #: It goes on when one of its nodes is killed. False for what has one node.
    outlives_a_node: Expectation


BROKERS: dict[str, Expectations] = {
    "amqtt": Expectations(
        retained_after_stop=Expectation(False, "the embedded broker keeps nothing on disk: it is for demos"),
        retained_after_kill=Expectation(False, "the same"),
        takeover=Expectation(False, "amqtt 0.12.1 does not look for an older connection of a clean session"),
        outlives_a_node=Expectation(False, "it is one process"),
    ),
    "mosquitto": Expectations(
        retained_after_stop=Expectation(True, "persistence is on, and it writes its disk when it ends"),
        retained_after_kill=Expectation(False, "what came since the last autosave_interval is lost"),
        takeover=Expectation(True, "as MQTT 3.1.1 demands [MQTT-3.1.4-2]"),
        outlives_a_node=Expectation(False, "it is one process"),
    ),
    "nats": Expectations(
        retained_after_stop=Expectation(
            True, "retained messages are a JetStream stream, on the disks of three nodes"
        ),
        retained_after_kill=Expectation(
            True, "what it has acknowledged is written, if not synced, by two nodes"
        ),
        takeover=Expectation(True, "as MQTT 3.1.1 demands [MQTT-3.1.4-2]"),
        outlives_a_node=Expectation(True, "two nodes of three are a majority"),
    ),
}

#: Row of the catalogue -> broker as we ship it -> whether it stops what is tried, and why. What Fleetfoot
#: survives is the same on each, and stands in test_rows.py.
STOPPED: dict[int, dict[str, Expectation]] = {
    71: {
        "amqtt": Expectation(False, "it asks nobody who they are: the lie reaches everybody"),
        "mosquitto": Expectation(True, "the certificate's name is the only one whose topics it may write"),
        "nats": Expectation(True, "the entry of the certificate's subject names the topics it may write"),
    },
    74: {
        "amqtt": Expectation(False, "it knows no names: whoever connects may write anywhere"),
        "mosquitto": Expectation(True, "it puts no wildcard into its lists, and `a/b` is nobody else"),
        "nats": Expectation(True, "no such subject has an entry, so they are not connected"),
    },
    75: {
        "amqtt": Expectation(False, "it knows no certificates, so no tokens: whoever comes is let in"),
        "mosquitto": Expectation(True, "it demands a certificate, and the used token gave none"),
        "nats": Expectation(True, "it demands a certificate, and the used token gave none"),
    },
    76: {
        "amqtt": Expectation(False, "it knows no certificates: whoever was revoked connects again"),
        "mosquitto": Expectation(True, "after SIGHUP it refuses what is on the list of revoked certificates"),
        "nats": Expectation(True, "its subject has no entry any more, since each node was restarted in turn"),
    },
    77: {
        "amqtt": Expectation(False, "it has no disk: a restart is a loss of everything"),
        "mosquitto": Expectation(False, "up to 30 s are not on its disk, and here the disk is emptied too"),
        "nats": Expectation(False, "two other nodes would have everything; here all disks are emptied"),
    },
    79: {
        "amqtt": Expectation(False, "an order that was genuine once may be sent again by who may write it"),
        "mosquitto": Expectation(False, "the same: only the manager may, and here it is the manager's own"),
        "nats": Expectation(False, "the same as on Mosquitto"),
    },
    80: {
        "amqtt": Expectation(False, "it has no limit of size or rate, and lets anybody write anywhere"),
        "mosquitto": Expectation(True, "above 64 KiB it ends the connection; a device may not write there"),
        "nats": Expectation(True, "above 64 KiB it ends the connection; a device may not write there"),
    },
    81: {
        "amqtt": Expectation(False, "every connection breaks, and it starts with nothing"),
        "mosquitto": Expectation(False, "the same; as shipped it would remember all but the last 30 s"),
        "nats": Expectation(False, "the same, with all three nodes killed and their disks emptied"),
    },
}

#: Rows of `fleetfoot broker check` that do not come out the same each time, by broker and row.
VARYING: dict[tuple[str, str], str] = {
    ("nats", "slow_consumer"): (
        "NATS 2.9.10 with three replicas loses a few of 300 acknowledged messages to a reader that stood"
        " still, in about every third run, and they do not come later. With `consumer_replicas: 1` it loses"
        " none, but whoever's consumer was on a node that dies hears nothing until the next connect"
    ),
}
