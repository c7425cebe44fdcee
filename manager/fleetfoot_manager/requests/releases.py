"""The verbs about releases: upload, publish, list, show."""

import os
from typing import Any

from fleetfoot_manager import catalogue, documents, rights
from fleetfoot_manager.catalogue import Blobs, Candidate, ReleaseRow
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted
from fleetfoot_manager.work import Work
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import TrustRoot

_NOTES_LISTED = 200


def upload(work: Work, request: Request) -> dict[str, Any]:
    """`release.upload`: a token for the blobs that are not here yet."""
    wanted = arguments.parse(arguments.Upload, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
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
    return {
        "component": row.component,
        "version": row.version,
        "digest": row.digest,
        "counter": row.counter,
        "life": row.life,
    }


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`release.list`: the newest first."""
    asked = arguments.parse(arguments.ReleaseList, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    rows = [_row(row) for row in catalogue.listed(work.tx, asked.component)]
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
        **_row(row),
        "artifacts": artifacts,
        **({"more": more} if more else {}),
        "signers": catalogue.signers(row.envelope, work.house.root),
        "min_agent": row.manifest.min_agent,
        "published": times.to_text(row.published),
    }


def _row(row: ReleaseRow) -> dict[str, Any]:
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
    }
