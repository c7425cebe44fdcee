"""Writes what the documentation takes from the code: ``make docs``, or ``python -m docs.generate``.

docs/schemas/*.schema.json from the models, docs/topics.md from the table of topics, docs/codes.md and
docs/troubleshooting.md from the table of codes, docs/states.md from the tables of transitions.
tests/protocol/test_generated_docs.py fails while one of
them is out of date.
"""

import json
from pathlib import Path
from typing import Any

from docs.generate_codes import codes_page
from docs.generate_states import states_page
from docs.generate_topics import topics_page
from docs.generate_troubleshooting import troubleshooting_page

from fleetfoot_protocol import dsse
from fleetfoot_protocol.auditchain import AuditHead
from fleetfoot_protocol.documents import Desired, Document, Heartbeat, Probe, Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.enrolment import Admission, Application, Token
from fleetfoot_protocol.reports import Reply, Request, RolloutProgress, Status
from fleetfoot_protocol.trust import TrustRoot

HERE = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: name of the schema -> (model, title, what it is signed as)
MODELS: dict[str, tuple[type[Document], str, PayloadType]] = {
    "root": (TrustRoot, "Trust root", PayloadType.ROOT),
    "release": (Release, "Release manifest", PayloadType.RELEASE),
    "desired": (Desired, "Desired state", PayloadType.DESIRED),
    "heartbeat": (Heartbeat, "Heartbeat", PayloadType.HEARTBEAT),
    "probe": (Probe, "Probe", PayloadType.PROBE),
    "request": (Request, "Request of an operator", PayloadType.REQUEST),
    "reply": (Reply, "Reply of the manager", PayloadType.REPLY),
    "status": (Status, "Status of a device", PayloadType.STATUS),
    "rollout": (RolloutProgress, "Progress of a rollout", PayloadType.ROLLOUT),
    "audit": (AuditHead, "Head of the audit log", PayloadType.AUDIT),
}

#: name of the schema -> (model, title, how it is vouched for): what goes over HTTPS, or from hand to hand.
ENROLMENT: dict[str, tuple[type[Document], str, str]] = {
    "enrolment-token": (Token, "Enrolment token", "Not signed: who holds it may use it once."),
    "enrolment-application": (Application, "Application of a device", "Signed by both of its own keys."),
    "enrolment-admission": (
        Admission,
        "Answer to an application",
        "Not signed: it comes over the token's TLS.",
    ),
}

_BASE64 = {"type": "string", "pattern": "^[A-Za-z0-9+/_-]*={0,2}$"}
_SIGNATURES = {
    "type": "array",
    "maxItems": dsse.MAX_SIGNATURES,
    "items": {
        "type": "object",
        "properties": {
            "keyid": {"type": "string", "description": "A hint only."},
            "sig": {**_BASE64, "description": "Ed25519, 64 bytes."},
        },
        "required": ["sig"],
        "additionalProperties": False,
    },
}
_TYPE = {"type": "string", "enum": [str(kind) for kind in PayloadType]}

#: What has no model, because it is taken apart before anything in it is believed.
WRAPPINGS: dict[str, dict[str, Any]] = {
    "envelope": {
        "title": "DSSE envelope",
        "description": "Carries a signed document. The signature is over the pre-authentication encoding of "
        "payloadType and the decoded payload; at most 64 KiB as a whole.",
        "type": "object",
        "properties": {"payload": _BASE64, "payloadType": _TYPE, "signatures": _SIGNATURES},
        "required": ["payload", "payloadType", "signatures"],
        "additionalProperties": False,
    },
    "attestation": {
        "title": "Detached attestation",
        "description": "Vouches for the exact bytes of the message beside it. The counter is not signed: "
        "the one inside the status is.",
        "type": "object",
        "properties": {
            "payload_type": _TYPE,
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "counter": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
            "signatures": _SIGNATURES,
        },
        "required": ["payload_type", "sha256", "counter", "signatures"],
        "additionalProperties": False,
    },
}


def _tidied(value: Any) -> Any:
    """The schema without titles that only repeat a field's name, refusing keys that match no pattern."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _tidied(item) for key, item in value.items()}
    if "patternProperties" in found:
        found["additionalProperties"] = False
    if "properties" in found:
        for field in found["properties"].values():
            field.pop("title", None)
    return found


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document, an envelope or an attestation."""
    head = {"$schema": DIALECT, "$id": f"{name}.schema.json"}
    if name in WRAPPINGS:
        return {**head, **WRAPPINGS[name]}
    if name in ENROLMENT:
        model, title, vouched = ENROLMENT[name]
    else:
        model, title, kind = MODELS[name]
        vouched = f"Signed as `{kind}`."
    body = _tidied(model.model_json_schema())
    # With a default in the code, but what comes over the wire must say it.
    body["properties"]["spec"].pop("default")
    body["required"] = ["spec", *body["required"]]
    description = f"{body.pop('description')}\n\n{vouched}"
    body.pop("title")
    return {**head, "title": title, "description": description, **body}


def _schema_text(name: str) -> str:
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def files() -> dict[str, str]:
    """Every generated file, by its path below docs/."""
    schemas = {
        f"schemas/{name}.schema.json": _schema_text(name) for name in (*MODELS, *ENROLMENT, *WRAPPINGS)
    }
    return {
        **schemas,
        "topics.md": topics_page(),
        "codes.md": codes_page(),
        "states.md": states_page(),
        "troubleshooting.md": troubleshooting_page(),
    }


def main() -> None:
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
