"""A fleet for the console without a broker: signed messages put straight into its inbox."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetfoot_protocol import auditchain, dsse, keys, times, topics
from fleetfoot_protocol.documents import Artifact, Desired, Goal, Release, Target
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import (
    Answer,
    Clock,
    ComponentStatus,
    Disk,
    Installed,
    OutcomeRecord,
    Platform,
    PolicySummary,
    Problem,
    RolloutProgress,
    Status,
)
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import Operator, RoleKeys, Roles, TrustRoot
from fleetfoot_tui.app import Console
from fleetfoot_tui.feed import Inbox

FLEET = "bakery"
COMPONENT = "kiosk"
ROLLOUT = "r-7k2m9x0a7c"
#: 2026-11-20 12:00:00 UTC, when all of it happens.
NOON = 1_795_176_000.0


@dataclass
class Fixed:
    """A clock that stands until it is told to go on."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Link:
    """The way to the broker, as a test says it is."""

    connected: bool = True
    trouble: str = ""


@dataclass
class Canned:
    """Answers requests from a table; remembers what was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any], int | None]] = field(default_factory=list)
    given_up: bool = False

    def request(
        self,
        verb: str,
        group: str = "*",
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        timeout: float = 10.0,
    ) -> dict[str, Any]:
        self.asked.append((verb, dict(arguments or {}), revision))
        found = self.answers.get(verb)
        if found is None:
            raise FleetfootError("timeout", f"no reply of the manager to {verb}")
        if isinstance(found, FleetfootError):
            raise found
        result: dict[str, Any] = found(dict(arguments or {})) if callable(found) else found
        return result

    def give_up(self) -> None:
        """Whoever leaves says so."""
        self.given_up = True

    def of(self, verb: str) -> list[dict[str, Any]]:
        """Arguments of every request of a verb."""
        return [arguments for name, arguments, _ in list(self.asked) if name == verb]


class Stage:
    """Keys, a root, releases, and an inbox that is filled by hand."""

    def __init__(self) -> None:
        self.secrets = {name: keys.generate() for name in ("root", "release", "director", "alice")}
        self.device_secret = keys.generate()
        publics = {name: keys.public_of(secret) for name, secret in self.secrets.items()}
        ids = {name: keys.key_id(public) for name, public in publics.items()}
        self.root = TrustRoot(
            version=1,
            epoch=1,
            fleet=FLEET,
            expires=times.to_text(NOON + 10**7),
            keys={ids[name]: public.hex() for name, public in publics.items()},
            roles=Roles(
                root=RoleKeys(keys=(ids["root"],), threshold=1),
                release=RoleKeys(keys=(ids["release"],), threshold=1),
                director=RoleKeys(keys=(ids["director"],), threshold=1),
                operators={"alice": Operator(key=ids["alice"], roles={"*": (Role.ADMIN,)})},
            ),
        )
        self.clock = Fixed()
        self.link = Link()
        self.inbox = Inbox(topics.DEFAULT_ROOT)
        self.asker = Canned({"manager.status": {"engine": "running"}, "device.list": self._inventory})
        self.members: dict[str, str] = {}
        self.releases = {version: self._release(version, n) for n, version in enumerate(_VERSIONS, 1)}

    def console(self, **options: Any) -> Console:
        return Console(
            self.root, self.inbox, self.asker, source=self.link, now=self.clock, operator="alice", **options
        )

    @property
    def audit(self) -> list[dict[str, Any]]:
        """A log of a few entries, chained as the manager does it."""
        did = (
            ("alice", "release.publish", {"component": COMPONENT, "version": "1.2.0"}),
            ("alice", "group.upgrade.schedule", {"rollout": ROLLOUT, "node_count": 30}),
            ("bob", "request.refused", {"verb": "rollout.decide", "code": "not_allowed"}),
            ("manager", "group.upgrade.tripped", {"rollout": ROLLOUT, "failure_count": 2}),
        )
        entries: list[dict[str, Any]] = []
        previous = auditchain.GENESIS
        for n, (actor, action, data) in enumerate(did, 1):
            row = (n, times.to_text(NOON - 600 + n), actor, action, json.dumps(data), "", previous)
            previous = auditchain.hash_of(*row)
            names = ("n", "at", "actor", "action", "data", "request", "previous")
            entries.append(dict(zip(names, row, strict=True)) | {"hash": previous})
        return entries

    def audit_head(self) -> None:
        """The head of that log, signed."""
        last = self.audit[-1]
        head = auditchain.AuditHead(
            fleet=FLEET, count=last["n"], hash=last["hash"], issued=times.to_text(NOON)
        )
        self.put(Kind.AUDIT_HEAD, self.signed(PayloadType.AUDIT, head.payload()))

    # -- messages

    def put(self, kind: Kind, payload: bytes, *, retained: bool = True, **ids: str) -> None:
        self.inbox.put(topics.build(kind, **ids), payload, retained)

    def manager(self, word: str = "online") -> None:
        self.put(Kind.MANAGER_PRESENCE, word.encode())

    def device(
        self,
        name: str,
        group: str,
        component: ComponentStatus | None = None,
        *,
        presence: str = "online",
        secret: bytes = b"",
        ago: float = 5,
        **changes: Any,
    ) -> None:
        """A device with a signed status, retained."""
        status = self.status(name, group, component, ago=ago, **changes)
        payload = status.payload()
        attestation = dsse.attest(PayloadType.STATUS, payload, status.counter, secret or self.device_secret)
        self.members[name] = group
        self.put(Kind.STATUS, payload, group=group, device=name)
        self.put(Kind.STATUS_ATTESTATION, attestation, group=group, device=name)
        self.put(Kind.PRESENCE, presence.encode(), group=group, device=name)

    def status(
        self, name: str, group: str, component: ComponentStatus | None, *, ago: float = 5, **changes: Any
    ) -> Status:
        given: dict[str, Any] = {
            "fleet": FLEET,
            "group": group,
            "device": name,
            "incarnation": "first",
            "counter": 1,
            "boot_id": "boot",
            "at": times.to_text(NOON - ago),
            "agent": "0.1.0",
            "root": 1,
            "platform": Platform(os="linux", arch="arm64"),
            "labels": {"site": "berlin"},
            "capabilities": ("upgrade", "stage", "rollback"),
            "policy": PolicySummary(enabled=True, channels=("stable",)),
            "disk": Disk(free=7 * 10**9),
            "clock": Clock(trusted=True, floor=times.to_text(0)),
            "components": {COMPONENT: component} if component else {},
        }
        return Status(**{**given, **changes})

    def desired(self, group: str, version: str, rollout: str | None = None) -> None:
        """A group's document: the version as baseline, or as the goal of a rollout."""
        goal = self.goal(version)
        targets: dict[str, Any] = {"baseline": goal}
        if rollout is not None:
            one = Target(rollout=rollout, goal=goal, salt=rollout, stage_cut="all", activate_cut="all")
            targets = {"targets": (one,)}
        document = Desired(
            fleet=FLEET,
            group=group,
            component=COMPONENT,
            epoch=1,
            sequence=1,
            issued=times.to_text(NOON - 60),
            expires=times.to_text(NOON + 10**6),
            **targets,
        )
        self.put(
            Kind.GROUP_DESIRED,
            self.signed(PayloadType.DESIRED, document.payload()),
            group=group,
            component=COMPONENT,
        )

    def progress(self, rollout: str = ROLLOUT, *, key: str = "director", **changes: Any) -> None:
        """Progress of a rollout with its attestation, for each of its groups."""
        given: dict[str, Any] = {
            "fleet": FLEET,
            "rollout": rollout,
            "groups": ("grills", "ovens"),
            "component": COMPONENT,
            "version": "1.2.0",
            "digest": self.releases["1.2.0"][0],
            "state": "tripped",
            "reason": "2 failures in wave 1",
            "revision": 7,
            "waves": (3, 15, 30),
            "wave": 1,
            "total": 30,
            "counts": {"pending": 27, "healthy": 1, "rolled_back": 1, "failed": 1},
            "at": times.to_text(NOON - 30),
        }
        given |= changes
        for group in given["groups"]:
            payload = RolloutProgress(**given, group=group).payload()
            attestation = dsse.attest(PayloadType.ROLLOUT, payload, 1, self.secrets[key])
            self.put(Kind.ROLLOUT, payload, group=group, rollout=rollout)
            self.put(Kind.ROLLOUT_ATTESTATION, attestation, group=group, rollout=rollout)

    def event(self, kind: str, group: str, device: str = "", *, n: int = 1, **fields: Any) -> None:
        body = {
            "specversion": "1.0",
            "id": f"{device or group}-{kind}-{n}",
            "source": f"fleetfoot/{device or group}",
            "type": f"dev.fleetfoot.{kind}",
            "time": times.to_text(NOON - 40 + n),
            "severity": "info",
            "component": COMPONENT,
            **fields,
        }
        ids = {"group": group} | ({"device": device} if device else {})
        self.put(
            Kind.DEVICE_EVENTS if device else Kind.GROUP_EVENTS,
            json.dumps(body).encode(),
            retained=False,
            **ids,
        )

    def signed_root(self) -> bytes:
        """The trust root as a file holds it."""
        return self.signed(PayloadType.ROOT, self.root.payload(), "root")

    def signed(self, kind: PayloadType, payload: bytes, key: str = "director") -> bytes:
        return dsse.encode(dsse.sign(kind, payload, self.secrets[key]))

    def publish_releases(self) -> None:
        for digest, envelope in self.releases.values():
            self.put(Kind.RELEASE, envelope, component=COMPONENT, digest=digest)

    # -- pieces of statuses

    def installed(self, version: str) -> Installed:
        return Installed(
            version=version, counter=list(_VERSIONS).index(version) + 1, digest=self.releases[version][0]
        )

    def goal(self, version: str) -> Goal:
        run = self.installed(version)
        return Goal(version=version, counter=run.counter, digest=run.digest, length=1000)

    def runs(self, version: str, **changes: Any) -> ComponentStatus:
        return ComponentStatus(**{"state": "idle", "running": self.installed(version), **changes})

    def ended(
        self,
        version: str,
        outcome: str,
        runs: str,
        code: str = "",
        message: str = "",
        rollout: str = "r-7k2m9x0a7c",
    ) -> ComponentStatus:
        """Work that ended so."""
        record = OutcomeRecord.model_validate(
            {
                "rollout": rollout,
                "attempt": 1,
                "digest": self.releases[version][0],
                "version": version,
                "outcome": outcome,
                "code": code,
                "at": times.to_text(NOON - 60),
            }
        )
        problem = Problem(code=code, message=message or code, at=times.to_text(NOON - 60)) if code else None
        failed = outcome in ("failed", "rolled_back")
        return self.runs(
            runs,
            rollout=rollout,
            outcomes=(record,),
            last_error=problem,
            refused={self.releases[version][0]: 1} if failed else {},
        )

    def rejects(self, version: str, runs: str, code: str, reason: str) -> ComponentStatus:
        """A standing refusal."""
        answer = Answer(epoch=1, sequence=1, scope="group", verdict="rejected", code=code, reason=reason)  # type: ignore[arg-type]
        return self.runs(runs, answered=answer)

    def works(self, version: str, state: str, runs: str) -> ComponentStatus:
        """Work in hand."""
        return self.runs(
            runs, state=state, target=self.releases[version][0], rollout="r-7k2m9x0a7c", attempt=1
        )

    def _release(self, version: str, counter: int) -> tuple[str, bytes]:
        content = hashlib.sha256(version.encode()).hexdigest()
        artifact = Artifact(
            os="linux",
            arch="arm64",
            format="tar.gz",
            length=4096,
            sha256=content,
            chunk_size=4096,
            index_sha256=content,
            unpacked_size=64,
            member_count=1,
            tree_sha256=content,
            entrypoint="app",
        )
        release = Release(
            component=COMPONENT,
            version=version,
            channel="stable",
            counter=counter,
            created=times.to_text(NOON - 10**6 + counter),
            artifacts=(artifact,),
        )
        envelope = dsse.sign(PayloadType.RELEASE, release.payload(), self.secrets["release"])
        return envelope.digest, dsse.encode(envelope)

    def _inventory(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        key = keys.public_of(self.device_secret).hex()
        rows = [{"id": d, "group": g, "key": key, "online": True} for d, g in self.members.items()]
        return {"devices": rows}


_VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
