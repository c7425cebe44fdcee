"""Writes the golden vectors beside it: ``.venv/bin/python -m tests.protocol.vectors.generate``.

They were written once and are read by tests ever after. Writing them anew is a change of the contract,
hence of `spec`: do it only together with that. Keys come from `samples.SEED`; no file holds a secret one.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.protocol import samples
from tests.protocol.resolve_cases import CASES

from fleetfoot_protocol import admission, dsse, enrolment, events, states, topics, tree
from fleetfoot_protocol.codes import TABLE
from fleetfoot_protocol.documents import Document, Model, Target
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.resolve import Device, Plan, resolve

HERE = Path(__file__).parent
IDS = {
    "group": "north",
    "device": "dev-001",
    "component": "kiosk",
    "rollout": "r-0001",
    "operator": "operator-1",
    "digest": samples.RELEASE_DIGEST,
    "step": "7",
}
REFUSED_TOPICS = (
    "",
    "ff/v1",
    "ff/v1/",
    "ff/v2/manager/presence",
    "fx/v1/manager/presence",
    "/ff/v1/manager/presence",
    "ff/v1/manager/presence/",
    "ff/v1//manager/presence",
    "ff/v1/groups/North/heartbeat",
    "ff/v1/groups/no.rth/heartbeat",
    "ff/v1/groups/-north/heartbeat",
    "ff/v1/groups/+/heartbeat",
    "ff/v1/groups/#",
    "ff/v1/groups/north/heartbeat\n",
    "ff/v1/groups/nörth/heartbeat",
    f"ff/v1/groups/{'n' * 64}/heartbeat",
    "ff/v1/trust/root/0",
    "ff/v1/trust/root/07",
    "ff/v1/releases/kiosk/1.1.0",
    f"ff/v1/releases/kiosk/{'A' * 64}",
)


def plain(value: Model) -> Any:
    """A model as it stands on the wire."""
    return value.model_dump(mode="json", exclude_none=True)


def topic_vectors() -> Any:
    built = []
    for kind, shape, retained, qos in topics.rows():
        ids = {name: IDS[name] for name in IDS if f"{{{name}}}" in shape}
        text = topics.build(kind, **ids)
        parsed = topics.parse(text)
        built.append(
            {
                "kind": str(kind),
                "ids": ids,
                "topic": text,
                "retained": retained,
                "qos": qos,
                "subscription": topics.subscription(kind),
                "slot": topics.slot_of(parsed) if parsed else None,
            }
        )
    return {"built": built, "refused": list(REFUSED_TOPICS)}


def pae_vectors() -> Any:
    cases = [
        (str(PayloadType.DESIRED), b'{"spec":1}'),
        ("http://example.com/HelloWorld", b"hello world"),
        ("", b""),
        ("type", "Größe 文".encode()),
        ("typ\u00e9", b"\x00\xff\n"),
    ]
    return [
        {"payload_type": kind, "payload_hex": body.hex(), "pae_hex": dsse.pae(kind, body).hex()}
        for kind, body in cases
    ]


def key_vectors() -> Any:
    return {
        "derivation": f"seed of a key: sha256 of the UTF-8 text: {samples.SEED}<name>",
        "keys": {
            name: {"public": samples.public(name).hex(), "id": samples.key_id(name)} for name in samples.KEYS
        },
    }


def document_vectors() -> Any:
    return {name: _document(kind, document) for name, (kind, document, _) in samples.DOCUMENTS.items()}


def _document(kind: PayloadType, document: Document) -> Any:
    envelope = dsse.sign(kind, document.payload())
    return {"payload_type": str(kind), "payload": document.payload().decode(), "sha256": envelope.digest}


def envelope_vectors() -> Any:
    envelopes = {
        name: {"signers": list(signers), "envelope": samples.envelope(kind, document, *signers).decode()}
        for name, (kind, document, signers) in samples.DOCUMENTS.items()
    }
    attestations = {}
    for name, counter in (("status", samples.STATUS.counter), ("rollout", 1_769_860_800_002)):
        kind, document, signers = samples.DOCUMENTS[name]
        secrets = [samples.secret(signer) for signer in signers]
        attestations[name] = {
            "signers": list(signers),
            "counter": counter,
            "attestation": dsse.attest(kind, document.payload(), counter, *secrets).decode(),
        }
    return {"envelopes": envelopes, "attestations": attestations}


def _device(device: Device) -> Any:
    return {
        "id": device.id,
        "labels": dict(device.labels),
        "run": plain(device.run) if device.run else None,
        "prev": plain(device.prev) if device.prev else None,
        "refused": dict(device.refused),
        "floor": device.floor,
    }


def plan_vector(plan: Plan) -> Any:
    """A plan as the vectors tell it."""
    return {
        "act": str(plan.act),
        "why": str(plan.why),
        "code": str(plan.code) if plan.code else None,
        "goal": plain(plan.goal) if plan.goal else None,
        "rollout": plan.rollout,
    }


def resolve_vectors() -> Any:
    return [
        {
            "name": case.name,
            "group": plain(case.group) if case.group else None,
            "own": plain(case.own) if case.own else None,
            "device": _device(case.device),
            "plan": plan_vector(resolve(case.group, case.own, case.device)),
        }
        for case in CASES
    ]


FLEET = [f"dev-{number:03}" for number in range(1, 11)]
LABELS = {device: {"site": "quay" if number % 2 else "mole"} for number, device in enumerate(FLEET, 1)}
CUTS: tuple[dict[str, Any], ...] = (
    {"salt": "r-0001"},
    {"salt": "r-0002"},
    {"salt": "r-0001", "selector": {"site": "quay"}},
    {"salt": "r-0001", "include": ["dev-004", "dev-009"], "exclude": ["dev-001"]},
    {
        "salt": "r-0001",
        "selector": {"site": "mole"},
        "include": ["dev-001", "dev-002"],
        "exclude": ["dev-002"],
    },
)
WAVES: tuple[tuple[list[int | str], int], ...] = (
    (["10%", "50%", "100%"], 30),
    (["10%", "50%", "100%"], 50),
    (["10%", "50%", "100%"], 1),
    (["1%", "2%", "100%"], 7),
    ([1, "50%", 1000], 9),
    ([3], 30),
    ([0, 5, 4], 30),
    (["33%", "66%"], 100),
)


def cut_vector(k: int, asked: dict[str, Any]) -> Any:
    """The cut for k of the fleet, and whom it admits."""
    devices = [admission.Candidate(device, LABELS[device]) for device in FLEET]
    cut = admission.cut_for(k, devices=devices, **asked)
    target = Target(
        rollout="r-0001",
        goal=samples.GOAL,
        selector=asked.get("selector", {}),
        include=tuple(asked.get("include", ())),
        exclude=tuple(asked.get("exclude", ())),
        salt=asked["salt"],
        stage_cut=cut,
        activate_cut=cut,
    )
    return {
        "k": k,
        "cut": cut,
        "admitted": [d for d in FLEET if admission.admitted(target, d, LABELS[d], cut)],
    }


def admission_vectors() -> Any:
    positions = [
        {"salt": salt, "device": device, "position": admission.position(salt, device)}
        for salt in ("r-0001", "r-0002")
        for device in FLEET
    ]
    return {
        "labels": LABELS,
        "positions": positions,
        "cuts": [{**asked, "waves": [cut_vector(k, asked) for k in range(len(FLEET) + 2)]} for asked in CUTS],
        "wave_sizes": [
            {"shares": shares, "total": total, "sizes": list(admission.wave_sizes(shares, total))}
            for shares, total in WAVES
        ],
    }


def tree_vectors() -> Any:
    script = b"#!/bin/sh\n:\n"
    members = (
        tree.Member("d", "bin", 0o755),
        tree.Member("f", "bin/app", 0o755, len(script), hashlib.sha256(script).hexdigest()),
        tree.Member("l", "run", target="bin/app"),
    )
    return {"lines": [member.line() for member in members], "sha256": tree.tree_sha256(members)}


def enrolment_vectors() -> Any:
    """A token and its line, an application with what both keys sign, and an answer."""
    token = enrolment.Token(
        url="https://broker.example.org:8090",
        secret="5e" * 32,
        group=IDS["group"],
        root=samples.RELEASE_DIGEST,
        ca="ca" * 32,
    )
    device = IDS["device"]
    application = enrolment.apply(
        token, device, samples.secret("device"), samples.secret("tls"), {"site": "a"}
    )
    answer = enrolment.Admission(
        device=device,
        group=token.group,
        certificate="-----BEGIN CERTIFICATE-----\n...",
        ca="-----BEGIN CERTIFICATE-----\n...",
        root='{"payload": "..."}',
        broker="mqtts://broker.example.org:8883",
        renew_at=1785000000,
    )
    signed = enrolment.signed_bytes(token.secret, device, application.key, application.tls_key)
    return {
        # Without the secret, which is the byte 5e 32 times: no file here may look as if it held one.
        "token": {name: value for name, value in plain(token).items() if name != "secret"},
        "line": enrolment.encode(token),
        "secret_sha256": enrolment.secret_digest(token.secret),
        "application": {name: value for name, value in plain(application).items() if name != "secret"},
        "signed_hex": signed.hex(),
        "admission": plain(answer),
    }


def word_vectors() -> Any:
    return {
        "codes": [
            {"code": str(code), "family": str(info.family), "severity": str(info.severity)}
            for code, info in TABLE.items()
        ],
        "payload_types": [str(kind) for kind in PayloadType],
        "events": [events.PREFIX + event for event in events.Event],
        "lifecycle": [str(state) for state in states.Lifecycle],
        "outcomes": [str(state) for state in states.Outcome],
        "verdicts": [str(state) for state in states.Verdict],
        "terminal": {str(state): state.ended for state in states.Terminal},
        "rollout_states": {str(state): state.ended for state in states.RolloutState},
        "badges": {str(state): [badge.glyph, badge.word] for state, badge in states.BADGES.items()},
        "roles": [str(role) for role in states.Role],
        "rights": {str(right): sorted(states.RIGHTS[right]) for right in states.Right},
    }


FILES = {
    "topics": topic_vectors,
    "pae": pae_vectors,
    "keys": key_vectors,
    "documents": document_vectors,
    "envelopes": envelope_vectors,
    "resolve": resolve_vectors,
    "admission": admission_vectors,
    "tree": tree_vectors,
    "words": word_vectors,
    "enrolment": enrolment_vectors,
}


def lines(value: Any, levels: int = 2) -> str:
    """JSON with the outer levels on lines of their own, so that a difference is read case by case."""
    compact = json.dumps(value, ensure_ascii=False)
    if levels == 0 or not value or not isinstance(value, dict | list) or len(compact) < 80:
        return compact
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {lines(item, levels - 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + "\n}"
    return "[\n" + ",\n".join(lines(item, levels - 1) for item in value) + "\n]"


def text_of(name: str) -> str:
    """The whole file of these vectors as it is made now."""
    return lines(FILES[name](), 1 if name == "resolve" else 2) + "\n"


def main() -> None:
    for name in FILES:
        (HERE / f"{name}.json").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
