"""docs/topics.md, from the table of topics: what goes where, lines to paste, how to check what one reads."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from docs.generate_codes import WARNING, table

from fleetfoot_protocol import topics
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.events import PREFIX, Event, cloud_event, severity_of
from fleetfoot_protocol.topics import Kind


class Row(NamedTuple):
    """What the table of topics does not say: who writes, and what."""

    writer: str
    content: str


def _signed(name: str, text: str) -> str:
    return f"signed [{text}](schemas/{name}.schema.json)"


_ATTESTED = "its [attestation](schemas/attestation.schema.json)"
_PRESENCE = "`online` or `offline`, as a bare word"
ROWS: dict[Kind, Row] = {
    Kind.GROUP_DESIRED: Row("manager", _signed("desired", "desired state") + " of the group"),
    Kind.DEVICE_DESIRED: Row("manager", _signed("desired", "desired state") + " of one device"),
    Kind.HEARTBEAT: Row("manager", _signed("heartbeat", "heartbeat") + ": the newest orders of the group"),
    Kind.PROBE: Row("manager", _signed("probe", "probe") + ": what would you answer to this?"),
    Kind.ROLLOUT: Row("manager", "plain JSON: [progress](schemas/rollout.schema.json) of a rollout"),
    Kind.ROLLOUT_ATTESTATION: Row("manager", _ATTESTED),
    Kind.GROUP_EVENTS: Row("manager", "events of rollouts as CloudEvents"),
    Kind.STATUS: Row("device", "plain JSON: [status](schemas/status.schema.json) of the device"),
    Kind.STATUS_ATTESTATION: Row("device", _ATTESTED),
    Kind.PRESENCE: Row("device, its Last Will", _PRESENCE),
    Kind.PROGRESS: Row("device", "plain JSON: how far a download has come; decides nothing"),
    Kind.DEVICE_EVENTS: Row("device", "events of the device as CloudEvents"),
    Kind.RELEASE: Row("manager", _signed("release", "release manifest") + "; never changes"),
    Kind.TRUST_ROOT: Row("manager", _signed("root", "trust root") + " of this version"),
    Kind.MANAGER_PRESENCE: Row("manager, its Last Will", _PRESENCE),
    Kind.AUDIT_HEAD: Row(
        "manager", _signed("audit", "head of the audit log") + ": its length, its last hash"
    ),
    Kind.REQUESTS: Row("operator", _signed("request", "request")),
    Kind.REPLIES: Row("manager", _signed("reply", "reply") + " to the request of this id"),
}

_SUB = "mosquitto_sub -h 127.0.0.1 -p 1883"


def _line(*kinds: Kind, then: str = " -v") -> str:
    filters = " ".join(f"-t '{topics.subscription(kind)}'" for kind in kinds)
    return f"{_SUB} {filters}{then}"


def _taken_apart(kind: Kind) -> str:
    return _line(kind, then=" \\\n    | jq '.payload | @base64d | fromjson'")


#: What somebody wants to see -> the line to paste.
PASTE: Sequence[tuple[str, str]] = (
    ("every device: what runs, what it is doing, what it answered", _line(Kind.STATUS)),
    ("who is there", _line(Kind.PRESENCE, Kind.MANAGER_PRESENCE)),
    ("rollouts, as they go", _line(Kind.ROLLOUT)),
    (
        "everything that happens, one JSON object a line",
        _line(Kind.GROUP_EVENTS, Kind.DEVICE_EVENTS, then=""),
    ),
    ("downloads, as they come in", _line(Kind.PROGRESS)),
    (
        "device, component, running version and state, one a line",
        _line(
            Kind.STATUS,
            then=" \\\n    | jq -c '.device as $d | .components | to_entries[]"
            " | [$d, .key, .value.running.version, .value.state]'",
        ),
    ),
    (
        "standing alarms",
        _line(Kind.STATUS, then=" \\\n    | jq -c 'select(.alarms != []) | {device, alarms}'"),
    ),
    ("what the manager orders, taken out of its envelope", _taken_apart(Kind.GROUP_DESIRED)),
    ("the trust roots, taken out of their envelopes", _taken_apart(Kind.TRUST_ROOT)),
)

#: Needs PyNaCl and nothing of Fleetfoot. A test runs it as it stands on the page; formatted, because ruff
#: formats code in Markdown too.
CHECK = '''\
import base64, hashlib, json
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey


def attested(payload: bytes, attestation: bytes, payload_type: str, public_key: bytes) -> bool:
    """Whether the holder of this key vouches for exactly these bytes as this type."""
    said = json.loads(attestation)
    if said["payload_type"] != payload_type or said["sha256"] != hashlib.sha256(payload).hexdigest():
        return False
    kind = payload_type.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for signature in said["signatures"]:
        try:
            VerifyKey(public_key).verify(message, base64.b64decode(signature["sig"]))
            return True
        except (CryptoError, ValueError, TypeError):
            continue
    return False
'''


def _rows() -> str:
    head = ("topic", "retained", "QoS", "writer", "content")
    return table(
        head,
        (
            (f"`{shape}`", "yes" if retained else "no", str(qos), *ROWS[kind])
            for kind, shape, retained, qos in topics.rows()
        ),
    )


def _paste() -> str:
    return "\n\n".join(f"    # {what}\n    {line.replace(chr(10), chr(10) + '    ')}" for what, line in PASTE)


def example() -> str:
    """An event as a device sends it, as indented JSON."""
    event = cloud_event(
        Event.UPGRADE_HEALTHCHECK_FAILED,
        source="/fleets/harbour/groups/north/devices/dev-001",
        event_id="k3f9-18",
        time="2026-01-31T12:02:07Z",
        data={"device": "dev-001", "group": "north", "version": "1.2.0", "attempt": 1, "healthy": False},
        component="kiosk",
        rollout="r-0001",
        code=Code.UPGRADE_HEALTH_FAILED,
    )
    return json.dumps(event, indent=2)


def _events() -> str:
    rows = [
        (f"`{PREFIX}{event}`", "device" if _of_device(event) else "manager", str(severity_of(event, None)))
        for event in Event
    ]
    return table(("type", "from", "severity without a code"), rows)


def _of_device(event: Event) -> bool:
    return event.startswith("upgrade_") or event is Event.ALARM


def topics_page() -> str:
    """The whole of docs/topics.md."""
    below = f"{topics.DEFAULT_ROOT}/{topics.VERSION}/"
    return f"""{WARNING}

# Topics

Everything goes over MQTT 3.1.1. Topics stand below `{below}`: the first part can be configured, the second
cannot. Ids match `{topics.ID_PATTERN}`, so no topic has a dot in it.

{_rows()}

Duplicates, old retained messages and messages out of order are normal; an empty retained message says
nothing. What is signed comes in a [DSSE envelope](schemas/envelope.schema.json), and a document is named by
the SHA-256 of its payload, never of its envelope. The [schemas](schemas/) tell the form; that no
withdrawn release is a goal, and a few other rules between fields, stand in the [contract](contract.md).

Not every broker sends retained messages to subscriptions with wildcards. Where the lines below bring
nothing on yours, name group and device, as in `{topics.build(Kind.STATUS, group="north", device="dev-001")}`.

## Lines to paste

{_paste()}

Put in host and port of your own broker; one that faces a network will want `--cafile`, `--cert` and `--key`
too. What comes over the network is somebody else's text, and `mosquitto_sub` passes it on as it is: where it
may not be trusted, let `jq` show it, without `-r`, or `cat -v`. On Debian:
`apt-get install mosquitto-clients jq`.

## Attestations

Status and progress are plain JSON, so that anybody can read them, and anybody who may write to the topic
can forge them. Looking is free. **Before a message changes a decision, check the attestation beside it**:

1. Message and attestation come one after the other, in either order. They belong together when
   `sha256` is that of the exact bytes of the message; until then, wait.
2. The signature is over `DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`, lengths in bytes and decimal,
   the body being the exact bytes that came: never parse and write them again before.
3. `payload_type` must be the one you expect: `application/vnd.fleetfoot.status+json` or
   `application/vnd.fleetfoot.rollout+json`.
4. A status is signed by the device's own key, as it was enrolled. Progress is signed by a key of the role
   `director` in the newest trust root that is chained to the one you were given.
5. Then read: `fleet`, `group` and `device` inside the message count, the topic proves nothing. A status with
   a lower `counter` than one of the same `incarnation` seen before is old; the same `counter` with other
   bytes is an alarm. Progress with a lower `revision` is old. The `counter` beside the signature is itself
   not signed.

With PyNaCl alone:

```python
{CHECK}```

With the package: `fleetfoot_protocol.trust.verify_status(payload, attestation, public_key)` and
`verify_progress(payload, attestation, root)`, which parse strictly as well.

## Events

Events are [CloudEvents 1.0](https://github.com/cloudevents/spec) in structured JSON. `category` is
`upgrade`; `component` and `rollout` stand where the event is about one; `errorcode` stands where something
failed, with its severity and remedy from [codes](codes.md). An event may come twice: its `source` and `id`
tell. Device lists in events are cut at 100, counts are not.

```json
{example()}
```

{_events()}
"""
