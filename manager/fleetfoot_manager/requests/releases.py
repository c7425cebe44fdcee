"""The verbs about releases: upload, publish, list, show, and their life: promote, archive, recall, lift."""

import os
from typing import Any

from fleetfoot_manager import catalogue, documents, lives, rights
from fleetfoot_manager.catalogue import Blobs, Candidate, Life, ReleaseRow
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted, some
from fleetfoot_manager.work import Work
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import TrustRoot

_NOTES_LISTED = 200


def upload(work: Work, request: Request) -> dict[str, Any]:
    """`release.upload`: a token for the blobs that are not here yet."""
    wanted = arguments.parse(arguments.Upload, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    catalogue.is_known(work.tx, wanted.component, wanted.version, wanted.digest)  # before anything is sent
    blobs = {blob.sha256: blob.length for blob in wanted.blobs}
    missing = work.house.blobs.missing(blobs)
    needed = sum(blobs[sha256] for sha256 in missing)
    free = os.statvfs(work.house.folder)
    if needed > free.f_bavail * free.f_frsize:
        raise UpgradeError(
            Code.UPGRADE_DISK_FULL,
            f"the manager has no room for {needed} bytes",
            remedy="free space where the manager keeps its blobs",
        )
    token = catalogue.issue_token(work.tx, request.operator, blobs, work.now)
    return {"url": work.house.artifacts, "token": token, "missing": missing}


def wanted(work: Work, request: Request) -> arguments.Publish:
    """`release.publish`, first part: may the operator, and what exactly is to be examined?"""
    parsed = arguments.parse(arguments.Publish, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    return parsed


def examine(blobs: Blobs, asked: arguments.Publish, root: TrustRoot) -> Candidate:
    """`release.publish`, second part, beside the engine: signatures and bytes."""
    candidate = catalogue.examine(blobs, asked.envelope, root)
    release = candidate.release
    named = (asked.component, asked.version, asked.digest)
    if named != (release.component, release.version, candidate.digest):
        raise FleetfootError(
            "request_invalid",
            f"the envelope holds {release.component} {release.version} ({candidate.digest})",
            remedy="publish the release under the names that its manifest has",
        )
    return candidate


def publish(work: Work, request: Request, candidate: Candidate) -> dict[str, Any]:
    """`release.publish`, last part: into the catalogue, and retained for the devices."""
    release = candidate.release
    if catalogue.admit(work.tx, candidate, work.now):
        ids = {"component": release.component, "digest": candidate.digest}
        documents.put(work.tx, Kind.RELEASE, ids, candidate.envelope, work.now)
        data = {"component": release.component, "version": release.version, "digest": candidate.digest}
        work.audit(request.operator, "release.publish", data)
    row = catalogue.demand(work.tx, release.component, release.version)
    if wanted(work, request).bless and row.life == Life.PUBLISHED:
        lives.promote(work, row, Life.BLESSED, request.operator)
        row = catalogue.demand(work.tx, release.component, release.version)
    return {
        "component": row.component,
        "version": row.version,
        "digest": row.digest,
        "counter": row.counter,
        "life": row.life,
    }


def promote(work: Work, request: Request) -> dict[str, Any]:
    """`release.promote`."""
    asked = arguments.parse(arguments.ReleasePromote, request.arguments)
    row = _demanded(work, request, asked.component, asked.version)
    lives.promote(work, row, Life(asked.to), request.operator)
    return _now(work, row)


def archive(work: Work, request: Request) -> dict[str, Any]:
    """`release.archive`."""
    asked = arguments.parse(arguments.ReleaseShow, request.arguments)
    row = _demanded(work, request, asked.component, asked.version)
    if row.life != Life.ARCHIVED:
        lives.archive(work, row)
        work.audit(request.operator, "release.archive", _about(row))
    return _now(work, row)


def recall(work: Work, request: Request) -> dict[str, Any]:
    """`release.recall`."""
    asked = arguments.parse(arguments.ReleaseRecall, request.arguments)
    row = _demanded(work, request, asked.component, asked.version)
    groups = lives.recall(work, row, asked.reason, request.operator)
    data = {**_about(row), "reason": asked.reason, "groups": groups}
    work.audit(request.operator, "release.recall", data)
    return {**_now(work, row), "groups": groups}


def lift(work: Work, request: Request) -> dict[str, Any]:
    """`release.lift`: takes a recall back."""
    asked = arguments.parse(arguments.ReleaseShow, request.arguments)
    row = _demanded(work, request, asked.component, asked.version)
    for of in work.rollouts.values():
        if of.state is RolloutState.ROLLING_BACK and of.goal.digest == row.digest:
            # Lifted now, devices that have not heard of it would stay on what is being taken back.
            raise FleetfootError(
                "state_refused",
                f"rollout {of.id} is taking {row.component} {row.version} back",
                remedy="lift the recall once that has ended",
            )
    groups = lives.lift(work, row)
    work.audit(request.operator, "release.lift", {**_about(row), "groups": groups})
    return {**_now(work, row), "groups": groups}


def _demanded(work: Work, request: Request, component: str, version: str) -> ReleaseRow:
    """The release, if the operator has the verb's right in every group."""
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    return catalogue.demand(work.tx, component, version)


def _about(row: ReleaseRow) -> dict[str, Any]:
    return {"component": row.component, "version": row.version, "digest": row.digest}


def _now(work: Work, row: ReleaseRow) -> dict[str, Any]:
    """The release as it is after an act."""
    return _row(catalogue.demand(work.tx, row.component, row.version), _recalled(work))


def _recalled(work: Work) -> dict[str, str]:
    return {known.digest: known.reason for known in catalogue.recalls(work.tx)}


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`release.list`: the newest first."""
    asked = arguments.parse(arguments.ReleaseList, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    recalled = _recalled(work)
    rows = [_row(row, recalled) for row in catalogue.listed(work.tx, asked.component)]
    for row in rows:
        row["notes"] = row["notes"][:_NOTES_LISTED]
    shown, more = fitted(rows)
    return {"releases": shown, **({"more": more} if more else {})}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`release.show`."""
    asked = arguments.parse(arguments.ReleaseShow, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    row = catalogue.demand(work.tx, asked.component, asked.version)
    artifacts, more = fitted(
        [artifact.model_dump(mode="json", exclude_none=True) for artifact in row.manifest.artifacts]
    )
    return {
        **_row(row, _recalled(work)),
        "artifacts": artifacts,
        **({"more": more} if more else {}),
        "signers": catalogue.signers(row.envelope, work.house.root),
        "min_agent": row.manifest.min_agent,
        "published": times.to_text(row.published),
    }


def compare(work: Work, request: Request) -> dict[str, Any]:
    """`release.compare`: what lies between two releases: notes of each step, artifacts by platform, sizes."""
    asked = arguments.parse(arguments.ReleaseCompare, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    both = [catalogue.demand(work.tx, asked.component, version) for version in (asked.version, asked.to)]
    older, newer = sorted(both, key=lambda row: row.counter)
    recalled = _recalled(work)
    between = [
        {
            "version": row.version,
            "notes": row.manifest.notes[:_NOTES_LISTED],
            **some(recalled=recalled.get(row.digest)),
        }
        for row in sorted(catalogue.listed(work.tx, asked.component), key=lambda row: row.counter)
        if older.counter < row.counter <= newer.counter
    ]
    steps, more = fitted(between)
    before, after = _by_platform(older), _by_platform(newer)
    platforms = [
        {
            "platform": name,
            **some(from_length=before.get(name, (None, ""))[0], to_length=after.get(name, (None, ""))[0]),
            "same": name in before and before[name] == after.get(name),
        }
        for name in sorted(before | after)
    ]
    return {
        "component": asked.component,
        "from": _row(older, recalled),
        "to": _row(newer, recalled),
        "between": steps,
        **({"more": more} if more else {}),
        "platforms": platforms,
    }


def _by_platform(row: ReleaseRow) -> dict[str, tuple[int, str]]:
    """platform -> (length, sha256) of the artifact."""
    return {
        "/".join(part for part in (one.os, one.arch, one.libc, *one.hw) if part): (one.length, one.sha256)
        for one in row.manifest.artifacts
    }


def _row(row: ReleaseRow, recalled: dict[str, str]) -> dict[str, Any]:
    """recalled: digest -> reason, of every recall that stands."""
    manifest = row.manifest
    return {
        "component": row.component,
        "version": row.version,
        "digest": row.digest,
        "channel": row.channel,
        "counter": row.counter,
        "min_counter": manifest.min_counter,
        "life": row.life,
        "created": manifest.created,
        "notes": manifest.notes,
        "platforms": sorted({f"{artifact.os}/{artifact.arch}" for artifact in manifest.artifacts}),
        "length": max(artifact.length for artifact in manifest.artifacts),
        **some(recalled=recalled.get(row.digest)),
    }
