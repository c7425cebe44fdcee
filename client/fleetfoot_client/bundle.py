"""A release bundle on disk: the folder `<component>-<version>/` with envelope and blobs, and its checks.

`release.dsse.json` carries payload and signatures; `blobs/<sha256>` are the artifacts and their indexes.
Everything here works offline.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_client import files, roots
from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Artifact, Release, read
from fleetfoot_protocol.dsse import Envelope, PayloadType
from fleetfoot_protocol.errors import FleetfootError, TrustError, UpgradeError
from fleetfoot_protocol.trust import TrustRoot

ENVELOPE = "release.dsse.json"
BLOBS = "blobs"
_AGAIN = "copy the bundle again from where it was built, or build it again"
_OTHER = "it has another sha256 than the manifest says"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it lies there: nothing of it is verified."""

    path: Path
    envelope: Envelope
    release: Release

    @property
    def digest(self) -> str:
        """The release's digest."""
        return self.envelope.digest

    @property
    def envelope_path(self) -> Path:
        """The file that carries payload and signatures."""
        return self.path / ENVELOPE

    def blob(self, sha256: str) -> Path:
        """Where a blob lies."""
        return self.path / BLOBS / sha256


@dataclass(frozen=True, slots=True)
class Signers:
    """Who signed: ids of release keys, and how many the root demands."""

    ids: list[str]
    threshold: int


def name_of(component: str, version: str) -> str:
    """The name of the bundle's folder."""
    return f"{component}-{version}"


def load(path: Path) -> Bundle:
    """The bundle in the folder `path`. FleetfootError `not_found`; FormError or TrustError if it is none."""
    envelope = dsse.decode(files.read(path / ENVELOPE, dsse.MAX_ENVELOPE))
    if envelope.payload_type != PayloadType.RELEASE:
        raise TrustError(Code.UPGRADE_TYPE_MISMATCH, f"{path / ENVELOPE} holds no release")
    return Bundle(path, envelope, read(Release, envelope.payload))


def blobs_of(release: Release) -> dict[str, int]:
    """Every blob that the release needs: sha256 -> length in bytes."""
    wanted: dict[str, int] = {}
    for artifact in release.artifacts:
        wanted[artifact.sha256] = artifact.length
        wanted[artifact.index_sha256] = artifact.index_length
    return wanted


def check_blobs(bundle: Bundle) -> None:
    """Compare every blob with what the manifest says: length, sha256, and the index chunk by chunk.

    UpgradeError `upgrade_length_mismatch` or `upgrade_checksum_mismatch`; FleetfootError `not_found`.
    """
    for artifact in bundle.release.artifacts:
        path = bundle.blob(artifact.index_sha256)
        index = next(_chunks(path, artifact.index_length + 1), b"")
        _check_length(path, len(index), artifact.index_length)
        if hashlib.sha256(index).hexdigest() != artifact.index_sha256:
            raise _mismatch(path, _OTHER)
        _check_artifact(bundle.blob(artifact.sha256), artifact, index)


def _check_artifact(path: Path, artifact: Artifact, index: bytes) -> None:
    whole = hashlib.sha256()
    length = 0
    for number, chunk in enumerate(_chunks(path, artifact.chunk_size)):
        whole.update(chunk)
        length += len(chunk)
        if length > artifact.length:
            break
        if hashlib.sha256(chunk).digest() != index[32 * number : 32 * number + 32]:
            raise _mismatch(path, f"chunk {number} is not the one in the index")
    _check_length(path, length, artifact.length)
    if whole.hexdigest() != artifact.sha256:
        raise _mismatch(path, _OTHER)


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while chunk := file.read(size):
                yield chunk
    except FileNotFoundError:
        raise FleetfootError("not_found", f"the bundle lacks the blob {path}", remedy=_AGAIN) from None


def _check_length(path: Path, have: int, wanted: int) -> None:
    if have != wanted:
        more_or_less = "more" if have > wanted else "less"
        raise UpgradeError(
            Code.UPGRADE_LENGTH_MISMATCH, f"{path} has {more_or_less} than {wanted} bytes", remedy=_AGAIN
        )


def _mismatch(path: Path, why: str) -> UpgradeError:
    return UpgradeError(Code.UPGRADE_CHECKSUM_MISMATCH, f"{path}: {why}", remedy=_AGAIN)


def verify(bundle: Bundle, root: TrustRoot) -> Signers:
    """Everything that a manager or a device will check before it unpacks. Returns who signed.

    TrustError if the release keys of `root` have not signed as the threshold demands; else as
    `check_blobs`.
    """
    verify_signatures(bundle, root)
    check_blobs(bundle)
    return signers(bundle, root)


def verify_signatures(bundle: Bundle, root: TrustRoot) -> None:
    """The first part of `verify`. TrustError naming the bundle and who still has to sign."""
    try:
        trust.verify_release(dsse.encode(bundle.envelope), root)
    except TrustError as error:
        unsigned = "it is not signed yet" if not bundle.envelope.signatures else error.message
        raise TrustError(
            error.upgrade_code,
            f"{bundle.path}: {unsigned}",
            remedy=f"have {root.roles.release.threshold} of the release keys sign it: "
            f"'fleetfoot release sign {bundle.path} --key KEY'",
        ) from error


def signers(bundle: Bundle, root: TrustRoot) -> Signers:
    """The release keys of `root` that signed the bundle, enough of them or not."""
    role = root.roles.release
    ids = [key for key in roots.signers(bundle.envelope, root.keys) if key in role.keys]
    return Signers(ids, role.threshold)


def add_signatures(bundle: Bundle, secrets: list[bytes]) -> Bundle:
    """Sign with each key and write the envelope; a key that had signed before signs anew."""
    envelope = bundle.envelope
    for secret in secrets:
        envelope = dsse.add_signature(envelope, secret)
    files.replace(bundle.envelope_path, dsse.encode(envelope))
    return Bundle(bundle.path, envelope, bundle.release)
