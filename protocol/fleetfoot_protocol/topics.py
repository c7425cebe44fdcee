"""Topics, built and parsed in this one module (contract section 1).

Every topic is ``<root>/v1/<rest>``: the root is configurable, the version is not. The table `_SHAPES`
is the only place that knows how a topic looks; building and parsing both read it, so that they cannot
disagree. Standard library only: the courier imports this module and must stay small.
"""

import re
from enum import StrEnum
from typing import NamedTuple

VERSION = "v1"
DEFAULT_ROOT = "ff"

ID_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
DIGEST_PATTERN = r"[0-9a-f]{64}"
_ID = re.compile(ID_PATTERN)
_DIGEST = re.compile(DIGEST_PATTERN)
_ROOT = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,4}")
_STEP = re.compile(r"[1-9][0-9]{0,8}")


class TopicError(ValueError):
    """A topic, or an id that should go into one, does not have the form of the contract."""


class Kind(StrEnum):
    """What a topic carries; one member for each row of the contract's table."""

    GROUP_DESIRED = "group_desired"
    DEVICE_DESIRED = "device_desired"
    HEARTBEAT = "heartbeat"
    PROBE = "probe"
    ROLLOUT = "rollout"
    ROLLOUT_ATTESTATION = "rollout_attestation"
    GROUP_EVENTS = "group_events"
    STATUS = "status"
    STATUS_ATTESTATION = "status_attestation"
    PRESENCE = "presence"
    PROGRESS = "progress"
    DEVICE_EVENTS = "device_events"
    RELEASE = "release"
    TRUST_ROOT = "trust_root"
    MANAGER_PRESENCE = "manager_presence"
    AUDIT_HEAD = "audit_head"
    REQUESTS = "requests"
    REPLIES = "replies"


#: kind -> (levels below ``<root>/v1/``, retained, quality of service)
_SHAPES: dict[Kind, tuple[str, bool, int]] = {
    Kind.GROUP_DESIRED: ("groups/{group}/desired/{component}", True, 1),
    Kind.DEVICE_DESIRED: ("groups/{group}/devices/{device}/desired/{component}", True, 1),
    Kind.HEARTBEAT: ("groups/{group}/heartbeat", True, 1),
    Kind.PROBE: ("groups/{group}/probe/{component}", True, 1),
    Kind.ROLLOUT: ("groups/{group}/rollouts/{rollout}", True, 1),
    Kind.ROLLOUT_ATTESTATION: ("groups/{group}/rollouts/{rollout}/attestation", True, 1),
    Kind.GROUP_EVENTS: ("groups/{group}/events", False, 1),
    Kind.STATUS: ("groups/{group}/devices/{device}/status", True, 1),
    Kind.STATUS_ATTESTATION: ("groups/{group}/devices/{device}/status/attestation", True, 1),
    Kind.PRESENCE: ("groups/{group}/devices/{device}/presence", True, 1),
    Kind.PROGRESS: ("groups/{group}/devices/{device}/progress", False, 0),
    Kind.DEVICE_EVENTS: ("groups/{group}/devices/{device}/events", False, 1),
    Kind.RELEASE: ("releases/{component}/{digest}", True, 1),
    Kind.TRUST_ROOT: ("trust/root/{step}", True, 1),
    Kind.MANAGER_PRESENCE: ("manager/presence", True, 1),
    Kind.AUDIT_HEAD: ("manager/audit", True, 1),
    Kind.REQUESTS: ("operators/{operator}/requests", False, 1),
    Kind.REPLIES: ("operators/{operator}/replies", False, 1),
}

_FIELD_PATTERNS: dict[str, re.Pattern[str]] = {"digest": _DIGEST, "step": _STEP}


class Topic(NamedTuple):
    """A parsed topic: its kind and the ids in it (absent ones are empty)."""

    kind: Kind
    group: str = ""
    device: str = ""
    component: str = ""
    rollout: str = ""
    operator: str = ""
    digest: str = ""
    step: str = ""

    @property
    def retained(self) -> bool:
        """Whether the writer publishes this kind retained."""
        return _SHAPES[self.kind][1]

    @property
    def qos(self) -> int:
        """MQTT quality of service of this kind: 0 or 1."""
        return _SHAPES[self.kind][2]

    def text(self, root: str = DEFAULT_ROOT) -> str:
        """The topic as it goes to the broker. Raises `TopicError` if an id is not an id."""
        return build(self.kind, root=root, **{name: getattr(self, name) for name in _fields(self.kind)})


def is_id(text: str) -> bool:
    """Whether `text` may stand in a topic as an id: ``[a-z0-9][a-z0-9-]{0,62}``."""
    return _ID.fullmatch(text) is not None


def device_client_id(device: str, *, root: str = DEFAULT_ROOT) -> str:
    """The client id of a device's courier: its own, whatever else of that name is at the broker."""
    return f"{root.replace('/', '-')}-device-{device}"


def check_id(text: str, what: str = "id") -> str:
    """Return `text` if it is an id, else raise `TopicError` naming `what` and the rule."""
    if not is_id(text):
        raise TopicError(f"{what} {text[:80]!a} must match {ID_PATTERN}")
    return text


def check_root(root: str) -> str:
    """Return `root` if it may stand before ``/v1/``, else raise `TopicError`."""
    if not _ROOT.fullmatch(root):
        raise TopicError(f"topic root {root[:80]!a} must be 1 to 5 levels of letters, digits, '_' and '-'")
    return root


def _fields(kind: Kind) -> list[str]:
    return re.findall(r"\{(\w+)\}", _SHAPES[kind][0])


def build(kind: Kind, *, root: str = DEFAULT_ROOT, **ids: str) -> str:
    """The topic of `kind` with `ids` filled in, e.g. ``build(Kind.STATUS, group="g", device="d")``.

    Raises `TopicError` for a missing, superfluous or malformed id.
    """
    shape = _SHAPES[kind][0]
    needed = _fields(kind)
    if sorted(ids) != sorted(needed):
        raise TopicError(f"topic {kind} takes {needed}, not {sorted(ids)}")
    for name, value in ids.items():
        if not _FIELD_PATTERNS.get(name, _ID).fullmatch(value):
            raise TopicError(f"{name} {value[:80]!a} cannot stand in a topic")
    return f"{check_root(root)}/{VERSION}/{shape.format(**ids)}"


def subscription(kind: Kind, *, root: str = DEFAULT_ROOT, **ids: str) -> str:
    """A subscription filter for `kind`: ids that are not given become the one-level wildcard ``+``.

    Raises `TopicError` for a superfluous or malformed id.
    """
    if superfluous := sorted(set(ids) - set(_fields(kind))):
        raise TopicError(f"topic {kind} takes {_fields(kind)}, not {superfluous}")
    for name, value in ids.items():
        if not _FIELD_PATTERNS.get(name, _ID).fullmatch(value):
            raise TopicError(f"{name} {value[:80]!a} cannot stand in a topic")
    filled = {name: ids.get(name, "+") for name in _fields(kind)}
    return f"{check_root(root)}/{VERSION}/{_SHAPES[kind][0].format(**filled)}"


def _level_pattern(level: str) -> str:
    if not level.startswith("{"):
        return re.escape(level)
    name = level[1:-1]
    return f"(?P<{name}>{_FIELD_PATTERNS.get(name, _ID).pattern})"


_PARSERS: list[tuple[Kind, re.Pattern[str]]] = [
    (kind, re.compile("/".join(_level_pattern(level) for level in shape.split("/"))))
    for kind, (shape, _, _) in _SHAPES.items()
]


#: The same by how many slashes there are: most of what arrives is of few kinds, and arrives by the thousand.
_BY_LEVELS: dict[int, list[tuple[Kind, re.Pattern[str]]]] = {}
for _kind, _pattern in _PARSERS:
    _BY_LEVELS.setdefault(_SHAPES[_kind][0].count("/"), []).append((_kind, _pattern))


def parse(text: str, *, root: str = DEFAULT_ROOT) -> Topic | None:
    """What the topic `text` is, or None if it is none of ours (never an exception: brokers send anything)."""
    prefix = f"{root}/{VERSION}/"
    if not text.startswith(prefix):
        return None
    rest = text[len(prefix) :]
    for kind, pattern in _BY_LEVELS.get(rest.count("/"), ()):
        if match := pattern.fullmatch(rest):
            return Topic(kind, **match.groupdict())
    return None


#: Topic kinds that a device receives and hands to its worker -> name of the spool slot (section 6, rule 4).
_SLOTS: dict[Kind, str] = {
    Kind.GROUP_DESIRED: "group.{component}",
    Kind.DEVICE_DESIRED: "own.{component}",
    Kind.HEARTBEAT: "heartbeat",
    Kind.PROBE: "probe.{component}",
    Kind.TRUST_ROOT: "root.{step}",
    Kind.RELEASE: "manifest.{digest}",
}


def slot_of(topic: Topic) -> str | None:
    """The spool slot under ``in/msg/`` for a topic that a device receives, else None.

    The slot is a hint of the courier; the worker judges by the signed scope.
    """
    shape = _SLOTS.get(topic.kind)
    if shape is None:
        return None
    return shape.format(component=topic.component, step=topic.step, digest=topic.digest)


def rows() -> list[tuple[Kind, str, bool, int]]:
    """The whole table for documentation: (kind, topic below ``<root>/v1/``, retained, qos)."""
    return [(kind, shape, retained, qos) for kind, (shape, retained, qos) in _SHAPES.items()]
