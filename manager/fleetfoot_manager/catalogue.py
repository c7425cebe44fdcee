"""The release catalogue: upload tokens, and the rules a release meets before it is published.

1. It is signed by the threshold of release keys of the manager's root.
2. A published (component, version) never changes: the same bytes again are fine, others are a conflict.
3. Its counter is higher than every counter of that component before.
4. All its artifacts and indexes lie in the blob folder with the lengths that are signed, and each chunk
   of an artifact has the sha256 that its index names.

Blobs are stored under the sha256 of their bytes by the artifact server, which has checked it.
"""

import hashlib
import json
import secrets
import stat
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Artifact, Release, read
from fleetfoot_protocol.errors import FleetfootError, FormError, UpgradeError
from fleetfoot_protocol.trust import TrustRoot

TOKEN_SECONDS = 3600.0


class Life(StrEnum):
    """What a published release serves. A release that is not published yet is a draft, and not here.

    published: single devices, and canaries (the first wave of a rollout that has more). blessed: whole
    groups. live: the same, and some group has it for its baseline. archived: nobody, for good.
    """

    PUBLISHED = "published"
    BLESSED = "blessed"
    LIVE = "live"
    ARCHIVED = "archived"


#: A life -> those it may be promoted to.
PROMOTIONS: dict[Life, tuple[Life, ...]] = {
    Life.PUBLISHED: (Life.BLESSED, Life.LIVE),
    Life.BLESSED: (Life.LIVE,),
    Life.LIVE: (),
    Life.ARCHIVED: (),
}


class ReleaseRow(NamedTuple):
    """A published release. `envelope` as it was signed; `published` in unix seconds."""

    component: str
    version: str
    digest: str
    channel: str
    counter: int
    life: str
    envelope: bytes
    published: float

    @property
    def manifest(self) -> Release:
        """The manifest; it was verified when it was published."""
        return read(Release, dsse.decode(self.envelope).payload)


def find(tx: Connection, component: str, version: str) -> ReleaseRow | None:
    """The release of that component and version, or None."""
    table = schema.releases.c
    row = tx.execute(
        sa.select(schema.releases).where(table.component == component, table.version == version)
    ).first()
    return ReleaseRow(*row) if row else None


def by_digest(tx: Connection, digest: str) -> ReleaseRow | None:
    """The release with that digest, or None."""
    row = tx.execute(sa.select(schema.releases).where(schema.releases.c.digest == digest)).first()
    return ReleaseRow(*row) if row else None


def demand(tx: Connection, component: str, version: str) -> ReleaseRow:
    """The release of that component and version, or FleetfootError `not_found`."""
    row = find(tx, component, version)
    if row is None:
        raise FleetfootError("not_found", f"no release {component} {version}")
    return row


def listed(tx: Connection, component: str | None = None, limit: int = 200) -> list[ReleaseRow]:
    """The newest releases first; of one component if it is named."""
    query = sa.select(schema.releases).order_by(schema.releases.c.published.desc()).limit(limit)
    if component is not None:
        query = query.where(schema.releases.c.component == component)
    return [ReleaseRow(*row) for row in tx.execute(query)]


def live_on(tx: Connection, digest: str, life: Life) -> None:
    """Give a release another life."""
    table = schema.releases
    tx.execute(sa.update(table).where(table.c.digest == digest).values(life=str(life)))


class Recall(NamedTuple):
    """A recalled release. `before`: groups in which it was withdrawn before; `at`: unix seconds."""

    digest: str
    component: str
    reason: str
    operator: str
    at: float
    before: tuple[str, ...]


def recalls(tx: Connection) -> list[Recall]:
    """Every recall that stands."""
    rows = tx.execute(sa.select(schema.recalls).order_by(schema.recalls.c.at))
    return [Recall(*row)._replace(before=tuple(json.loads(row.before))) for row in rows]


def recall_of(tx: Connection, digest: str) -> Recall | None:
    """The recall of a release, or None."""
    return next((one for one in recalls(tx) if one.digest == digest), None)


def demand_serving(tx: Connection, row: ReleaseRow) -> None:
    """Raise FleetfootError `state_refused` for a release that serves nobody: archived, or recalled."""
    if row.life == Life.ARCHIVED:
        raise FleetfootError(
            "state_refused",
            f"{row.component} {row.version} is archived: it serves nobody",
            remedy="choose another release, or publish these bytes as a new version",
        )
    recall = recall_of(tx, row.digest)
    if recall is not None:
        raise FleetfootError(
            "state_refused",
            f"{row.component} {row.version} is recalled by {recall.operator}: {recall.reason}",
            remedy=f"lift the recall first: 'fleetfoot release lift {row.component} {row.version}'",
        )


def versions(tx: Connection) -> dict[str, str]:
    """digest -> version of every release."""
    rows = tx.execute(sa.select(schema.releases.c.digest, schema.releases.c.version))
    return {row[0]: row[1] for row in rows}


def issue_token(tx: Connection, operator: str, blobs: Mapping[str, int], now: float) -> str:
    """A new token that admits the upload of these blobs (sha256 -> length) for an hour."""
    token = secrets.token_urlsafe(32)
    name = hashlib.sha256(token.encode()).hexdigest()
    tx.execute(sa.delete(schema.upload_tokens).where(schema.upload_tokens.c.expires <= now))
    tx.execute(
        sa.insert(schema.upload_tokens).values(
            token_sha256=name, operator=operator, expires=now + TOKEN_SECONDS
        )
    )
    tx.execute(
        sa.insert(schema.upload_blobs),
        [{"token_sha256": name, "sha256": sha256, "length": length} for sha256, length in blobs.items()],
    )
    return token


def allowed_length(tx: Connection, token: str, sha256: str, now: float) -> int | None:
    """The length with which the token admits this blob, or None."""
    tokens, blobs = schema.upload_tokens.c, schema.upload_blobs.c
    name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    length: int | None = tx.scalar(
        sa.select(blobs.length)
        .join(schema.upload_tokens, tokens.token_sha256 == blobs.token_sha256)
        .where(tokens.token_sha256 == name, tokens.expires > now, blobs.sha256 == sha256)
    )
    return length


class Blobs:
    """The folder of blobs, for looking only: the artifact server writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def length(self, sha256: str) -> int | None:
        """The length of a blob that is there, or None."""
        try:
            found = (self._folder / sha256).lstat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def missing(self, blobs: Mapping[str, int]) -> list[str]:
        """Those of the blobs (sha256 -> length) that are not there with that length."""
        return [sha256 for sha256, length in blobs.items() if self.length(sha256) != length]

    def read(self, sha256: str, limit: int) -> bytes:
        """The bytes of a small blob; FleetfootError `not_found`, or `upgrade_too_large` past `limit`."""
        length = self.length(sha256)
        if length is None:
            raise FleetfootError("not_found", f"blob {sha256} was not uploaded")
        if length > limit:
            raise FormError(Code.UPGRADE_TOO_LARGE, f"blob {sha256} has {length} bytes, more than {limit}")
        return (self._folder / sha256).read_bytes()

    def check(self, artifact: Artifact) -> None:
        """Raise unless artifact and index are there, and each chunk is the one that the index names.

        Reads the whole artifact: not for the engine's thread.
        """
        self._check_length(artifact.sha256, artifact.length)
        self._check_length(artifact.index_sha256, artifact.index_length)
        index = (self._folder / artifact.index_sha256).read_bytes()
        with (self._folder / artifact.sha256).open("rb") as file:
            for number in range(artifact.chunks):
                chunk = file.read(artifact.chunk_size)
                if hashlib.sha256(chunk).digest() != index[32 * number : 32 * number + 32]:
                    raise UpgradeError(
                        Code.UPGRADE_CHECKSUM_MISMATCH,
                        f"chunk {number} of artifact {artifact.sha256} is not the one its index names",
                        remedy="build the release again with 'fleetfoot release build'",
                    )

    def _check_length(self, sha256: str, length: int) -> None:
        have = self.length(sha256)
        if have is None:
            raise FleetfootError("not_found", f"blob {sha256} was not uploaded")
        if have != length:
            raise UpgradeError(
                Code.UPGRADE_LENGTH_MISMATCH, f"blob {sha256} has {have} bytes, {length} are signed"
            )


class Candidate(NamedTuple):
    """A release that is signed well and whose blobs are complete: rules 1 and 4."""

    release: Release
    digest: str
    envelope: bytes


def examine(blobs: Blobs, envelope_sha256: str, root: TrustRoot) -> Candidate:
    """Read and check an uploaded release. Looks at no store, so it may run beside the engine."""
    envelope = blobs.read(envelope_sha256, dsse.MAX_ENVELOPE)
    release, digest = trust.verify_release(envelope, root)
    for artifact in release.artifacts:
        blobs.check(artifact)
    return Candidate(release, digest, envelope)


def is_known(tx: Connection, component: str, version: str, digest: str) -> bool:
    """Whether this very release is here already. Raises `conflict` if its version is, with other bytes."""
    known = find(tx, component, version)
    if known is not None and known.digest != digest:
        raise FleetfootError(
            "conflict",
            f"{component} {version} is published with other bytes ({known.digest})",
            remedy="a published version never changes: build these bytes as a new version",
        )
    return known is not None


def admit(tx: Connection, candidate: Candidate, now: float) -> bool:
    """Store a release by rules 2 and 3; False if it was there already. Raises `conflict`."""
    release = candidate.release
    if is_known(tx, release.component, release.version, candidate.digest):
        return False
    highest = tx.scalar(
        sa.select(sa.func.max(schema.releases.c.counter)).where(
            schema.releases.c.component == release.component
        )
    )
    if highest is not None and release.counter <= highest:
        raise FleetfootError(
            "conflict",
            f"counter {release.counter} does not rise above {highest} of {release.component}",
            remedy="build the release with a higher counter",
        )
    tx.execute(
        sa.insert(schema.releases).values(
            component=release.component,
            version=release.version,
            digest=candidate.digest,
            channel=release.channel,
            counter=release.counter,
            life=str(Life.PUBLISHED),
            envelope=candidate.envelope,
            published=now,
        )
    )
    return True


def signers(envelope: bytes, root: TrustRoot) -> list[str]:
    """Ids of the release keys of the root whose signatures the envelope names."""
    named = {signature.keyid for signature in dsse.decode(envelope).signatures}
    return sorted(named & set(root.roles.release.keys))


def newest(tx: Connection, count: int) -> Iterable[str]:
    """Digests of the `count` newest releases."""
    table = schema.releases.c
    return tx.scalars(sa.select(table.digest).order_by(table.published.desc()).limit(count))
