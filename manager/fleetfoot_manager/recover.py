"""`fleetfoot manager recover`: the store is gone, the keys are kept; what is known of the rest?

What the manager signed is retained on the broker, what the release keys signed too, and the public keys of
devices lie beside the store (`keyring`). Everything is verified as if the broker were hostile, for it may
be. Rules:

1. A release is back if its manifest is there, with the life that its use shows: `live` as a baseline,
   `blessed` as a target, else `published`.
2. A group's baseline, withdrawn releases and targets are what its newest document says. A target whose
   rollout had not ended stands on hold from now on: who has it keeps it, nobody else begins, and whoever
   starts the release again takes its place. Without the document, what the devices attest is told.
3. An order to a single device is back as its document says it.
4. A preflight question is nobody's any more: whoever asked has to ask again. Its topic is cleared once the
   manager runs, whatever lies there, for no store knows it and nothing else would ever clear it.
5. Where a document is held as a whole, the engine was paused, and still is: somebody has to let it go on.
6. What cannot be known is said: rollouts under way with their waves and records, approvals, policies, notes,
   who recalled a release, the audit log up to here, devices whose keys nobody has.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from fleetfoot_manager import acts, audit, catalogue, documents, inventory, keyring, roots, schema, standstill
from fleetfoot_manager.catalogue import Life
from fleetfoot_manager.compose import GroupIntent
from fleetfoot_manager.database import STORE_NAME, URL_NAME
from fleetfoot_manager.director import KEY_NAME, Director, read_key
from fleetfoot_manager.init import BLOBS_NAME
from fleetfoot_manager.standstill import Standstill
from fleetfoot_manager.store import RECOVERED_HEAD, REQUESTS_SINCE, Store, set_meta, upsert
from fleetfoot_manager.wording import counted
from fleetfoot_protocol import strictjson, times, topics, trust
from fleetfoot_protocol.documents import Desired, expired
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState
from fleetfoot_protocol.topics import Kind, Topic
from fleetfoot_protocol.trust import TrustRoot

#: Topic without root and version -> payload, as the broker retained them.
Heard = Mapping[str, bytes]


@dataclass
class Report:
    """What is back, by kind, and in words what is not."""

    recovered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"recovered": dict(self.recovered), "not_recovered": self.lost}


def rebuild(
    tx: Connection,
    root: TrustRoot,
    heard: Heard,
    known: Mapping[str, Mapping[str, Any]],
    blobs: catalogue.Blobs,
    now: float,
) -> Report:
    """Fill an empty store. known: devices of the keyring; blobs: what is left of the artifacts."""
    report = Report()
    parsed = [(name, topic, heard[name]) for name in sorted(heard) if (topic := _parse(name)) is not None]
    desired = _desired(parsed, root, report)
    _releases(tx, root, parsed, desired, blobs, now, report)
    _devices(tx, known, heard, parsed, now, report)
    live = _live_rollouts(parsed, heard, root, report)
    groups = {(one.group, one.component) for one, _ in desired if one.device is None}
    for one, payload in desired:
        if one.device is None:
            _group(tx, one, payload, live, now, report)
        else:
            _own(tx, one, payload, now, report)
    if any(one.hold for one, _ in desired):
        standstill.keep(tx, Standstill(audit.MANAGER, now, "it was when the store was lost", ()))
        report.lost.append(
            "who paused the engine, and for what: it is paused, 'rollout resume --all' ends that"
        )
    _told_by_devices(tx, heard, groups, report)
    for name, topic, payload in parsed:
        if topic.kind is Kind.PROBE:
            documents.enqueue(tx, name, b"", retained=True)
            report.lost.append(f"the preflight of {topic.component} in {topic.group}: ask again")
        if topic.kind is Kind.AUDIT_HEAD:
            head = _verified(lambda data=payload: trust.verify_audit_head(data, root), name, report)
            if head is not None:
                set_meta(tx, RECOVERED_HEAD, sha256(payload).hexdigest())
                report.lost.append(f"audit log: {head.count} entries; exports of it verify with the old head")
    report.lost.append(
        "policies of groups, approvals, notes and history of rollouts, a pause that no order tells of"
    )
    set_meta(tx, REQUESTS_SINCE, repr(now))
    about = {"recovered": dict(report.recovered), "lost": len(report.lost)}
    audit.append(tx, now, audit.MANAGER, "store.recover", about)
    return report


def _parse(name: str) -> Topic | None:
    return topics.parse(f"{topics.DEFAULT_ROOT}/{topics.VERSION}/{name}")


def _verified(verify: Any, name: str, report: Report) -> Any:
    """What a verification gives; what does not verify is told and counts for nothing."""
    try:
        return verify()
    except FleetfootError as error:
        report.lost.append(f"{name}: not believed, {error.code}: {error.message}")
        return None


def _desired(
    parsed: list[tuple[str, Topic, bytes]], root: TrustRoot, report: Report
) -> list[tuple[Desired, bytes]]:
    found = []
    for name, topic, payload in parsed:
        if topic.kind not in (Kind.GROUP_DESIRED, Kind.DEVICE_DESIRED):
            continue
        one = _verified(lambda data=payload: trust.verify_desired(data, root), name, report)
        if one is None:
            continue
        if (one.group, one.device or "", one.component) != (topic.group, topic.device, topic.component):
            report.lost.append(f"{name}: not believed, it is the document of another topic")
        else:
            found.append((one, payload))
    return found


def _releases(
    tx: Connection,
    root: TrustRoot,
    parsed: list[tuple[str, Topic, bytes]],
    desired: list[tuple[Desired, bytes]],
    blobs: catalogue.Blobs,
    now: float,
    report: Report,
) -> None:
    baselines = {one.baseline.digest for one, _ in desired if one.baseline is not None}
    goals = {target.goal.digest: target.goal.version for one, _ in desired for target in one.targets}
    goals |= {one.baseline.digest: one.baseline.version for one, _ in desired if one.baseline is not None}
    found, unused = [], 0
    for name, topic, payload in parsed:
        if topic.kind is Kind.RELEASE:
            read = _verified(lambda data=payload: trust.verify_release(data, root), name, report)
            found += [] if read is None else [(*read, payload)]
    # Their counters rise, as they did when they were published.
    for release, digest, payload in sorted(found, key=lambda one: (one[0].component, one[0].counter)):
        try:
            with tx.begin_nested():
                catalogue.admit(tx, catalogue.Candidate(release, digest, payload), now)
        except FleetfootError as error:
            report.lost.append(f"{release.component} {release.version}: {error.message}")
            continue
        life = Life.LIVE if digest in baselines else Life.BLESSED if digest in goals else Life.PUBLISHED
        catalogue.live_on(tx, digest, life)
        unused += life is Life.PUBLISHED
        documents.put(tx, Kind.RELEASE, {"component": release.component, "digest": digest}, payload, now)
        goals.pop(digest, None)
        report.recovered["releases"] += 1
        wanted = {one.sha256: one.length for one in release.artifacts}
        wanted |= {one.index_sha256: one.index_length for one in release.artifacts}
        if blobs.missing(wanted):
            report.lost.append(f"artifacts of {release.component} {release.version}: publish it again")
    if unused:
        report.lost.append(
            f"the lives of {counted(unused, 'release')} that nobody is ordered to run: published now, so"
            " promote what was blessed"
        )
    for digest, version in goals.items():
        report.lost.append(f"the manifest of {version} ({digest[:12]}), which is wanted: publish it again")


def _devices(
    tx: Connection,
    known: Mapping[str, Mapping[str, Any]],
    heard: Heard,
    parsed: list[tuple[str, Topic, bytes]],
    now: float,
    report: Report,
) -> None:
    for device, row in known.items():
        inventory.enroll(tx, device, row["group"], row["key"], row["labels"], now)
        report.recovered["devices"] += 1
    unknown = sorted({topic.device for _, topic, _ in parsed if topic.kind is Kind.STATUS} - set(known))
    for device in unknown:
        report.lost.append(f"device {device} speaks, but its key is not known: enrol it again")


def _live_rollouts(
    parsed: list[tuple[str, Topic, bytes]], heard: Heard, root: TrustRoot, report: Report
) -> dict[str, str]:
    """Rollouts that had not ended -> their state."""
    found: dict[str, str] = {}
    for name, topic, payload in parsed:
        attestation = heard.get(f"{name}/attestation")
        if topic.kind is not Kind.ROLLOUT or attestation is None:
            continue
        told = _verified(
            lambda data=payload, proof=attestation: trust.verify_progress(data, proof, root), name, report
        )
        if told is not None and not RolloutState(told.state).ended:
            if told.rollout not in found:
                report.lost.append(
                    f"rollout {told.rollout} of {told.component} {told.version} was {told.state}, wave"
                    f" {told.wave} of {len(told.waves)}: held where it was; start it again"
                )
            found[told.rollout] = told.state
    return found


def _group(
    tx: Connection, one: Desired, payload: bytes, live: Mapping[str, str], now: float, report: Report
) -> None:
    standing = tuple(
        target.model_copy(update={"hold": True}) if target.rollout in live else target
        for target in one.targets
    )
    intent = GroupIntent(one.baseline, one.withdrawn, standing)
    text = strictjson.dumps(intent.to_json()).decode()
    upsert(tx, schema.intents, {"group": one.group, "component": one.component}, {"intent": text})
    ids = {"group": one.group, "component": one.component}
    # Due at once: the next document says the same, with the targets on hold, and is newer than this.
    order = {"epoch": one.order[0], "sequence": one.order[1]}
    documents.put(tx, Kind.GROUP_DESIRED, ids, payload, now, renew=now, **order)
    report.recovered["group documents"] += 1
    if one.withdrawn:
        report.lost.append(
            f"the reasons for what is withdrawn in {one.group} ({counted(len(one.withdrawn), 'release')}):"
            " recalls count as rollbacks now"
        )


def _own(tx: Connection, one: Desired, payload: bytes, now: float, report: Report) -> None:
    if one.released or expired(one.expires, int(now)) or one.device is None:
        return
    issued, expires = times.from_text(one.issued), times.from_text(one.expires)
    target = one.targets[0] if one.targets else None
    pins = target is None or expires - issued > acts.LIFE_SECONDS + 1
    act = acts.Act(
        device=one.device,
        component=one.component,
        act=target.rollout if target else f"a-recovered-{one.order[1]}",
        kind="pin" if target is None else "downgrade" if target.goal.mode == "exactly" else "upgrade",
        goal=target.goal if target else None,
        pins=pins,
        operator="recovered",
        created=issued,
        expires=expires,
        state=acts.OPEN if target else acts.HELD,
    )
    if tx.scalar(sa.select(schema.devices.c.id).where(schema.devices.c.id == one.device)) is None:
        report.lost.append(f"an order to {one.device}, which is not enrolled")
        return
    acts.keep(tx, act)
    ids = {"group": one.group, "device": one.device, "component": one.component}
    order = {"epoch": one.order[0], "sequence": one.order[1]}
    documents.put(tx, Kind.DEVICE_DESIRED, ids, payload, now, renew=now if pins else None, **order)
    report.recovered["orders to single devices"] += 1


def _told_by_devices(tx: Connection, heard: Heard, groups: set[tuple[str, str]], report: Report) -> None:
    """What runs, by attested reports, in groups of which no document is left."""
    running: dict[tuple[str, str], Counter[str]] = {}
    for entry in inventory.of_groups(tx, inventory.groups(tx)):
        topic = documents.place(Kind.STATUS, group=entry.group, device=entry.id)
        payload, proof = heard.get(topic), heard.get(f"{topic}/attestation")
        if payload is None or proof is None:
            report.lost.append(f"device {entry.id} has said nothing yet")
            continue
        status = _verified(
            lambda data=payload, signed=proof, key=entry.key: trust.verify_status(data, signed, key),
            topic,
            report,
        )
        if status is None:
            continue
        report.recovered["attested reports"] += 1
        for component, one in status.components.items():
            if one.running is not None and (entry.group, component) not in groups:
                running.setdefault((entry.group, component), Counter())[one.running.version] += 1
    for (group, component), counts in sorted(running.items()):
        told = ", ".join(f"{version} on {count}" for version, count in counts.most_common())
        report.lost.append(f"what {group} should run of {component}: no document is left; it runs {told}")


def run(folder: Path, files: Sequence[Path], heard: Heard, url: URL | None = None) -> Report:
    """Make a new store in a state folder whose store is gone, from what its broker retains.

    files: trust roots, the chain that devices have. Raises FleetfootError: `exists_already` if there is a
    store, `config_invalid` without roots, or with one that does not name the key in the folder.
    """
    if (folder / STORE_NAME).exists() or (folder / URL_NAME).exists():
        raise FleetfootError(
            "exists_already",
            f"{folder} has a store, or names one",
            remedy="move it away if it is lost; 'fleetfoot manager restore' is for backups",
        )
    secret = read_key(folder / KEY_NAME)
    if not files:
        raise FleetfootError("config_invalid", "no trust root", remedy="give --root root.json")
    first = trust.first_root(min(files, key=str).read_bytes())
    try:
        Store.create(folder, first.fleet, url)
        with Store(folder) as store:
            store.acquire()
            root = Director(secret, roots.install(store, files)).root
            (folder / BLOBS_NAME).mkdir(exist_ok=True)
            with store.write() as tx:
                blobs = catalogue.Blobs(folder / BLOBS_NAME)
                return rebuild(tx, root, heard, keyring.read(folder), blobs, time.time())
    except BaseException:
        # Half a store would be taken for a whole one.
        if url is None:
            (folder / STORE_NAME).unlink(missing_ok=True)
        (folder / URL_NAME).unlink(missing_ok=True)
        raise
