"""The fuzz target: valid documents of every kind, mutated, and what must be true of whatever comes out.

An *outsider's* mutation changes the envelope, or the payload without the right keys: it is never accepted,
unless what is accepted is the original payload to the byte (white space outside, the other base64 alphabet,
a signature more).

An *insider's* mutation is signed again by the right keys: it is refused by a `FleetfootError`, or it is a
valid document: every value that stands in it stands in the model as it was written (nothing was dropped,
added or coerced), its own bytes read as the same model again, and a second parser agrees about it.

Never another exception, and never more than `SECONDS` of processor time for one input. A case is reproduced
by its number alone.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.fuzz import mutating
from tests.protocol import samples

from fleetfoot_agent.layout import Trial
from fleetfoot_agent.spool import forms
from fleetfoot_agent.worker.journal import read_record, record_bytes
from fleetfoot_agent.worker.record import Record
from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.documents import Document
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError

#: Processor time that one input may take, many times what the slowest takes; superlinear parsing exceeds it.
SECONDS = 0.5

ROOT = samples.ROOT
NEXT_ROOT = samples.trust_root(version=2)


class Violation(AssertionError):
    """An input for which the rules above do not hold."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A signed document: as what it is signed and by whom, and how its envelope is read."""

    payload_type: PayloadType
    document: Document
    signers: tuple[str, ...]
    read: Callable[[bytes], Document]


def _detached(envelope: bytes) -> tuple[bytes, bytes]:
    """The payload of an envelope and its attestation, for what is published as plain JSON."""
    found = dsse.decode(envelope)
    attestation = json.loads(envelope)
    try:
        named = json.loads(found.payload)
    except (ValueError, RecursionError):
        named = None
    counter = named.get("counter", 0) if isinstance(named, dict) else 0
    body = {
        "payload_type": attestation["payloadType"],
        "sha256": found.digest,
        "counter": counter,
        "signatures": attestation["signatures"],
    }
    return found.payload, json.dumps(body).encode()


def _status(envelope: bytes) -> Document:
    return trust.verify_status(*_detached(envelope), samples.public("device-1"))


def _progress(envelope: bytes) -> Document:
    return trust.verify_progress(*_detached(envelope), ROOT)


_READERS: dict[PayloadType, Callable[[bytes], Document]] = {
    PayloadType.ROOT: lambda data: trust.advance_root(ROOT, data),
    PayloadType.RELEASE: lambda data: trust.verify_release(data, ROOT)[0],
    PayloadType.DESIRED: lambda data: trust.verify_desired(data, ROOT),
    PayloadType.HEARTBEAT: lambda data: trust.verify_heartbeat(data, ROOT),
    PayloadType.PROBE: lambda data: trust.verify_probe(data, ROOT),
    PayloadType.REQUEST: lambda data: trust.verify_request(data, ROOT)[0],
    PayloadType.REPLY: lambda data: trust.verify_reply(data, ROOT),
    PayloadType.AUDIT: lambda data: trust.verify_audit_head(data, ROOT),
    PayloadType.STATUS: _status,
    PayloadType.ROLLOUT: _progress,
}
KINDS: dict[str, Kind] = {
    name: Kind(kind, NEXT_ROOT if name == "root" else document, signers, _READERS[kind])
    for name, (kind, document, signers) in samples.DOCUMENTS.items()
}


def signed(kind: Kind, payload: bytes, *signers: str) -> bytes:
    """An envelope of the payload, signed by the keys of these names."""
    return dsse.encode(dsse.sign(kind.payload_type, payload, *(samples.secret(name) for name in signers)))


ORIGINALS: dict[str, bytes] = {
    name: signed(kind, kind.document.payload(), *kind.signers) for name, kind in KINDS.items()
}


def outsider(rng: Random, name: str) -> bytes:
    """The envelope of a document as somebody without its keys can change it."""
    kind, original = KINDS[name], ORIGINALS[name]
    act = rng.randrange(5)
    if act == 0:
        return mutating.mutated_bytes(rng, original)
    if act == 1:
        return mutating.dumped(rng, mutating.mutated_value(rng, json.loads(original)))
    payload = changed_payload(rng, kind)
    if act == 2:  # by keys of other roles, and by one that nobody knows
        others = [name for name in samples.KEYS if name not in kind.signers]
        return signed(kind, payload, *rng.sample(others, rng.randrange(1, 3)))
    if act == 3 and len(kind.signers) > 1:  # one signature fewer than the threshold, or twice the same
        return signed(kind, payload, *[kind.signers[0]] * rng.randrange(1, 3))
    # The old signatures under a new payload.
    kept = dsse.decode(original).signatures
    return dsse.encode(dsse.Envelope(kind.payload_type, payload, kept))


def changed_payload(rng: Random, kind: Kind) -> bytes:
    """The payload of a document, changed in its bytes or in its structure."""
    payload = kind.document.payload()
    if rng.randrange(3) == 0:
        return mutating.mutated_bytes(rng, payload)
    return mutating.dumped(rng, mutating.mutated_value(rng, json.loads(payload)))


def insider(rng: Random, name: str) -> bytes:
    """The same, signed again as it must be."""
    kind = KINDS[name]
    return signed(kind, changed_payload(rng, kind), *kind.signers)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Violation("accepted with a key that stands twice")
    return dict(pairs)


def agrees(written: Any, read: Any) -> bool:
    """Whether everything that was written is what was read: same types, same values, nothing lost."""
    if isinstance(written, dict) and isinstance(read, dict):
        return all(key in read and agrees(item, read[key]) for key, item in written.items())
    if isinstance(written, list) and isinstance(read, list):
        return len(written) == len(read) and all(map(agrees, written, read))
    return type(written) is type(read) and bool(written == read)


def judge(name: str, data: bytes, *, inside: bool) -> bool:
    """Read the envelope and judge what came of it. Whether it was accepted; raises `Violation`."""
    kind = KINDS[name]
    before = time.thread_time()
    try:
        document = kind.read(data)
    except FleetfootError:
        return False
    except Exception as error:
        raise Violation(f"{name}: {type(error).__name__} escaped: {str(error)[:200]}") from error
    finally:
        if (taken := time.thread_time() - before) > SECONDS:
            raise Violation(f"{name}: {taken:.2f} s of processor time for {len(data)} bytes")
    payload = dsse.decode(data).payload
    if not inside:
        if payload != kind.document.payload():
            raise Violation(f"{name}: accepted without the right signatures")
        return True
    # A second parser, which is not strict: whatever it sees beyond the model was let through wrongly.
    if not agrees(json.loads(payload, object_pairs_hook=_once), document.model_dump(mode="json")):
        raise Violation(f"{name}: the model is not what was written")
    if type(document).model_validate_json(document.payload(), strict=True) != document:
        raise Violation(f"{name}: its own bytes read differently")
    return True


def _record_originals() -> tuple[bytes, ...]:
    component = samples.STATUS.components["kiosk"]
    run = component.running
    idle = Record(run=run, prev=component.previous, floor=10, refused={"a" * 64: 2})
    return record_bytes(idle), record_bytes(
        Record(outcomes=component.outcomes, last_error=component.last_error)
    )


_FORMS: dict[str, tuple[Callable[[bytes], object], tuple[bytes, ...]]] = {
    "want": (forms.parse_want, (forms.Want((forms.ManifestWant("kiosk", "0" * 64),), (2,)).to_bytes(),)),
    "blob_state": (
        forms.parse_blob_state,
        (forms.BlobState(5, "upgrade_tls_failed", "http://a/").to_bytes(),),
    ),
    "link": (forms.parse_link, (forms.Link(True, 3.5, "b").to_bytes(),)),
    "wake_at": (forms.parse_wake_at, (forms.WakeAt("b", 1.0, 2.0).to_bytes(),)),
    "seen": (forms.parse_seen, (forms.seen_to_bytes({"group.kiosk": 5, "heartbeat": 9}),)),
    "acked": (forms.parse_acked, (forms.acked_to_bytes(77),)),
    "attested": (forms.attested_digest, (b'{"sha256":"' + b"0" * 64 + b'"}',)),
    "trial": (Trial.parse, (b"ff1 1 3 versions/1.0.0-00000000 versions/1.1.0-11111111\n",)),
}


def judge_form(name: str, data: bytes) -> None:
    """Small files of the device itself: garbage is None (a journal: ValueError), never another exception."""
    before = time.thread_time()
    try:
        if name == "journal":
            read_record(data)
        else:
            _FORMS[name][0](data)
    except Exception as error:
        if name != "journal" or not isinstance(error, ValueError):
            raise Violation(f"{name}: {type(error).__name__} escaped: {str(error)[:200]}") from error
    if (taken := time.thread_time() - before) > SECONDS:
        raise Violation(f"{name}: {taken:.2f} s of processor time for {len(data)} bytes")


_JOURNALS = _record_originals()
#: Everything that is fuzzed. Signed documents stand twice: mutated from outside and from inside.
TARGETS: tuple[str, ...] = (
    *(f"{side}:{name}" for name in KINDS for side in ("outside", "inside")),
    *(f"form:{name}" for name in (*_FORMS, "journal")),
)


def make(target: str, rng: Random) -> bytes:
    """One input for a target."""
    side, _, name = target.partition(":")
    if side == "form":
        return mutating.mutated_bytes(rng, rng.choice(_JOURNALS if name == "journal" else _FORMS[name][1]))
    return insider(rng, name) if side == "inside" else outsider(rng, name)


def check(target: str, data: bytes) -> bool:
    """Judge one input. Whether it was accepted as a document; raises `Violation`."""
    side, _, name = target.partition(":")
    if side == "form":
        judge_form(name, data)
        return False
    return judge(name, data, inside=side == "inside")


def one(number: int) -> tuple[str, bytes]:
    """The case of this number: its target and its input."""
    rng = Random(number)  # noqa: S311 # reproducible, not secret
    target = TARGETS[number % len(TARGETS)]
    while True:
        try:
            return target, make(target, rng)
        except FleetfootError:  # our own `encode` refuses an envelope of more than 64 KiB: draw again
            continue
