"""Documents and keys that the protocol's tests and golden vectors share.

Every key is derived in code from a text, so that no file holds one and everybody can make the same.
"""

import hashlib

from fleetfoot_protocol import admission, dsse, keys
from fleetfoot_protocol.auditchain import AuditHead
from fleetfoot_protocol.documents import (
    Artifact,
    Desired,
    Document,
    Goal,
    Heartbeat,
    Order,
    Probe,
    Release,
    Target,
)
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import (
    Answer,
    CheckResult,
    Clock,
    ComponentStatus,
    Disk,
    Installed,
    OutcomeRecord,
    Platform,
    PolicySummary,
    Preflight,
    Problem,
    Reply,
    Request,
    RolloutProgress,
    Status,
)
from fleetfoot_protocol.states import Lifecycle, Outcome, Role, Verdict
from fleetfoot_protocol.trust import Operator, RoleKeys, Roles, TrustRoot

SEED = "fleetfoot golden vectors: "
KEYS = (
    "root-1",
    "root-2",
    "root-3",
    "release-1",
    "release-2",
    "director-1",
    "director-2",
    "operator-1",
    "device-1",
    "stranger",
)
NOW, LATER = "2026-01-31T12:00:00Z", "2026-03-02T12:00:00Z"


def secret(name: str) -> bytes:
    """The secret key of this name: the SHA-256 of `SEED` and the name."""
    return hashlib.sha256((SEED + name).encode()).digest()


def public(name: str) -> bytes:
    """The raw public key of this name."""
    return keys.public_of(secret(name))


def key_id(name: str) -> str:
    """The key's id."""
    return keys.key_id(public(name))


def digest(text: str) -> str:
    """Some sha256 in hex, different for every text."""
    return hashlib.sha256(text.encode()).hexdigest()


def envelope(kind: PayloadType, document: Document, *signers: str) -> bytes:
    """The document's envelope, signed with the keys of these names."""
    return dsse.encode(dsse.sign(kind, document.payload(), *(secret(name) for name in signers)))


def trust_root(
    *,
    version: int = 1,
    epoch: int = 1,
    fleet: str = "harbour",
    root: tuple[str, ...] = ("root-1", "root-2", "root-3"),
    root_threshold: int = 2,
    director: tuple[str, ...] = ("director-1",),
    release: tuple[str, ...] = ("release-1", "release-2"),
    release_threshold: int = 2,
) -> TrustRoot:
    """A root over the keys of these names; operator-1 is operator of every group and admin of `north`."""
    named = {*root, *director, *release, "operator-1"}
    return TrustRoot(
        version=version,
        epoch=epoch,
        fleet=fleet,
        expires="2027-01-31T12:00:00Z",
        keys={key_id(name): public(name).hex() for name in sorted(named)},
        roles=Roles(
            root=RoleKeys(keys=tuple(map(key_id, root)), threshold=root_threshold),
            release=RoleKeys(keys=tuple(map(key_id, release)), threshold=release_threshold),
            director=RoleKeys(keys=tuple(map(key_id, director)), threshold=1),
            operators={
                "operator-1": Operator(
                    key=key_id("operator-1"),
                    roles={"*": (Role.VIEWER, Role.OPERATOR), "north": (Role.ADMIN,)},
                )
            },
        ),
    )


ROOT = trust_root()

RELEASE = Release(
    component="kiosk",
    version="1.1.0",
    channel="stable",
    counter=11,
    min_counter=10,
    min_agent="0.1.0",
    notes="Größere Schrift.\n\tNothing else: 文",
    created=NOW,
    artifacts=(
        Artifact(
            os="linux",
            arch="amd64",
            libc="glibc",
            format="tar.gz",
            length=2_500_000,
            sha256=digest("artifact amd64"),
            chunk_size=1_048_576,
            index_sha256=digest("index amd64"),
            unpacked_size=7_340_032,
            member_count=42,
            tree_sha256=digest("tree amd64"),
            entrypoint="bin/kiosk",
            sources=("https://mirror.example/blobs",),
        ),
        Artifact(
            os="linux",
            arch="arm64",
            hw=("rpi4", "rpi5"),
            format="tar.zst",
            length=4096,
            sha256=digest("artifact arm64"),
            chunk_size=4096,
            index_sha256=digest("index arm64"),
            unpacked_size=8192,
            member_count=1,
            tree_sha256=digest("tree arm64"),
            entrypoint="kiosk",
        ),
    ),
)
RELEASE_DIGEST = hashlib.sha256(RELEASE.payload()).hexdigest()
GOAL = Goal(version="1.1.0", counter=11, digest=RELEASE_DIGEST, length=2_500_000)
BASELINE = Goal(version="1.0.0", counter=10, digest=digest("kiosk 1.0.0"), length=2_400_000)

GROUP = Desired(
    fleet="harbour",
    group="north",
    component="kiosk",
    epoch=1,
    sequence=1_769_860_800_000,
    issued=NOW,
    expires=LATER,
    mirror="http://127.0.0.1:8080/blobs",
    targets=(
        Target(
            rollout="r-0001",
            goal=GOAL,
            selector={"site": "quay/3"},
            include=("dev-007",),
            exclude=("dev-013",),
            salt="r-0001",
            stage_cut=admission.ALL,
            activate_cut="1a00000000000000",
        ),
    ),
    baseline=BASELINE,
    withdrawn=(digest("kiosk 1.0.9"),),
)
OWN = Desired(
    fleet="harbour",
    group="north",
    device="dev-001",
    component="kiosk",
    epoch=1,
    sequence=1_769_860_800_001,
    issued=NOW,
    expires=LATER,
    baseline=GOAL.model_copy(update={"mode": "exactly", "attempt": 2}),
    hold=True,
)
HEARTBEAT = Heartbeat(
    fleet="harbour",
    group="north",
    issued=NOW,
    expires="2026-02-01T12:00:00Z",
    components={"kiosk": Order(epoch=1, sequence=1_769_860_800_000), "agent": Order(epoch=1, sequence=5)},
)
PROBE = Probe(
    fleet="harbour", group="north", component="kiosk", id="p-0001", goal=GOAL, issued=NOW, expires=LATER
)
REQUEST = Request(
    fleet="harbour",
    operator="operator-1",
    id="0190f3a2-5c1e",
    group="north",
    verb="rollout.start",
    arguments={"rollout": "r-0001", "waves": ["10%", 50, "100%"]},
    revision=3,
    issued=NOW,
    expires="2026-01-31T12:05:00Z",
)
REPLY = Reply(
    fleet="harbour",
    operator="operator-1",
    id="0190f3a2-5c1e",
    ok=False,
    code="state_refused",
    message="r-0001 is not planned",
    remedy="look at the present state with the matching 'show' command",
    result={"state": "running", "revision": 4},
    issued=NOW,
)
STATUS = Status(
    fleet="harbour",
    group="north",
    device="dev-001",
    incarnation="k3f9",
    counter=17,
    boot_id="3b0c1f52-6a0e-4f4e-9d0f-0d4c2a8e9b11",
    at=NOW,
    agent="0.1.0",
    root=1,
    platform=Platform(os="linux", arch="amd64", libc="glibc", hw="kiosk-2"),
    labels={"site": "quay/3"},
    capabilities=("upgrade",),
    policy=PolicySummary(enabled=True, channels=("stable",), min_version="1.0.0", pins={"agent": "0.1.0"}),
    disk=Disk(free=9_000_000_000),
    clock=Clock(trusted=True, floor=NOW),
    lost_events=2,
    alarms=("upgrade_stale",),
    components={
        "kiosk": ComponentStatus(
            state=Lifecycle.IDLE,
            reason="completed",
            running=Installed(version="1.1.0", counter=11, digest=RELEASE_DIGEST),
            previous=Installed(version="1.0.0", counter=10, digest=BASELINE.digest),
            floor=10,
            answered=Answer(epoch=1, sequence=1_769_860_800_000, scope="group", verdict=Verdict.ACCEPTED),
            rollout="r-0001",
            attempt=1,
            target=RELEASE_DIGEST,
            refused={digest("kiosk 1.0.9"): 1},
            last_error=Problem(code="upgrade_health_failed", message="no answer in 120 s", at=NOW),
            outcomes=(
                OutcomeRecord(
                    rollout="r-0001",
                    attempt=1,
                    digest=RELEASE_DIGEST,
                    version="1.1.0",
                    outcome=Outcome.COMPLETED,
                    running=RELEASE_DIGEST,
                    at=NOW,
                ),
            ),
            checks=(CheckResult(check="http://127.0.0.1:8080/health", healthy=True),),
        )
    },
)
#: The same device, after a probe.
ASKED = STATUS.model_copy(
    update={
        "counter": 18,
        "components": {
            "kiosk": STATUS.components["kiosk"].model_copy(
                update={
                    "preflight": Preflight(
                        id="p-0001",
                        digest=RELEASE_DIGEST,
                        verdict=Verdict.DEFERRED,
                        code="upgrade_window_closed",
                        reason="outside the maintenance window, until 2026-02-01T02:00:00Z",
                        at=NOW,
                    )
                }
            )
        },
    }
)
PROGRESS = RolloutProgress(
    fleet="harbour",
    rollout="r-0001",
    group="north",
    groups=("north", "south"),
    component="kiosk",
    version="1.1.0",
    digest=RELEASE_DIGEST,
    state="tripped",
    reason="1 of 3 devices of wave 1 rolled back",
    revision=12,
    waves=(3, 15, 30),
    wave=1,
    total=30,
    counts={"healthy": 2, "rolled_back": 1, "pending": 27},
    at=NOW,
)

AUDIT_HEAD = AuditHead(fleet="harbour", count=42, hash="4" * 64, issued=NOW)

#: name -> (payload type, document, names of the keys that sign it)
DOCUMENTS: dict[str, tuple[PayloadType, Document, tuple[str, ...]]] = {
    "root": (PayloadType.ROOT, ROOT, ("root-1", "root-3")),
    "release": (PayloadType.RELEASE, RELEASE, ("release-1", "release-2")),
    "desired_group": (PayloadType.DESIRED, GROUP, ("director-1",)),
    "desired_device": (PayloadType.DESIRED, OWN, ("director-1",)),
    "heartbeat": (PayloadType.HEARTBEAT, HEARTBEAT, ("director-1",)),
    "probe": (PayloadType.PROBE, PROBE, ("director-1",)),
    "request": (PayloadType.REQUEST, REQUEST, ("operator-1",)),
    "reply": (PayloadType.REPLY, REPLY, ("director-1",)),
    "status": (PayloadType.STATUS, STATUS, ("device-1",)),
    "status_preflight": (PayloadType.STATUS, ASKED, ("device-1",)),
    "rollout": (PayloadType.ROLLOUT, PROGRESS, ("director-1",)),
    "audit": (PayloadType.AUDIT, AUDIT_HEAD, ("director-1",)),
}
