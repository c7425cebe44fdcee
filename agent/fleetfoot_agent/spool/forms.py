"""What stands in the small files of the spool (contract section 6), and its bytes both ways.

A `to_bytes` never fails on a value of its own type. A `parse_*` function answers None to anything that is
not of the form and raises nothing: the file was written by the other side, which may be old, broken or
hostile. Unknown keys are ignored, so that courier and worker of two versions meet without harm. A list
with one wrong entry is wrong as a whole: half a list would make the reader delete what it lacks.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from fleetfoot_protocol import topics

#: Largest message, status, attestation and event, in bytes (contract section 2: envelope <= 64 KiB).
MESSAGE_CAP = 64 * 1024
#: What a larger message is cut to: a byte more than allowed, so that the worker can say that it is too large.
MESSAGE_CUT = MESSAGE_CAP + 1
#: Largest of the small JSON files, in bytes.
FORM_CAP = 256 * 1024
#: A number that JSON carries without loss (contract section 2).
MAX_INTEGER = 2**53 - 1
#: Arrivals and event numbers are written with 20 digits.
MAX_NUMBER = 10**20 - 1
#: Most by which an arrival may be ahead of what was seen: else one lie would use all numbers up for ever.
MAX_AHEAD = 2**32
#: Longest source of a blob, in characters.
URL_CAP = 2048

_MAX_MANIFESTS = 64
_MAX_ROOTS = 256
_MAX_BLOBS = 256
_MAX_URLS = 16
_MAX_SLOTS = 4096

_DIGEST = re.compile(topics.DIGEST_PATTERN)
_NUMBER = re.compile(r"[0-9]{20}")
_SLOT = re.compile(
    rf"heartbeat|(?:group|own|probe)\.{topics.ID_PATTERN}"
    rf"|root\.[1-9][0-9]{{0,8}}|manifest\.{topics.DIGEST_PATTERN}"
)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_slot(name: str) -> bool:
    """Whether `name` is a message slot: group.<c> own.<c> heartbeat probe.<c> root.<n> manifest.<digest>."""
    return _SLOT.fullmatch(name) is not None


def is_digest(name: str) -> bool:
    """Whether `name` is a sha256 as 64 lower-case hex digits."""
    return _DIGEST.fullmatch(name) is not None


def number_text(number: int) -> str:
    """20 digits, so that names sort as numbers do. ValueError outside 0..10^20-1."""
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{number} does not fit into 20 digits")
    return f"{number:020d}"


def parse_number(text: str) -> int | None:
    """The number that exactly 20 ASCII digits stand for, else None."""
    return int(text) if _NUMBER.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class ManifestWant:
    """A release manifest that the worker waits for; digest: sha256 of its payload, 64 hex digits."""

    component: str
    digest: str


@dataclass(frozen=True, slots=True)
class BlobWant:
    """A file to fetch: sha256 (hex), length in bytes, urls in the order to be tried.

    rate: bytes per second or None; deadline: unix seconds after which it is given up, or None.
    """

    sha256: str
    length: int
    urls: tuple[str, ...]
    rate: int | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """out/want.json: everything the courier shall subscribe to and fetch; what is not listed is deleted.

    keep: blobs, by sha256, of which nothing is to be fetched now, and nothing that is here to be deleted.
    """

    manifests: tuple[ManifestWant, ...] = ()
    roots: tuple[int, ...] = ()
    blobs: tuple[BlobWant, ...] = ()
    keep: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return _dump(
            {
                "manifests": [{"component": m.component, "digest": m.digest} for m in self.manifests],
                "roots": list(self.roots),
                "blobs": [
                    {
                        "sha256": b.sha256,
                        "length": b.length,
                        "urls": list(b.urls),
                        "rate": b.rate,
                        "deadline": b.deadline,
                    }
                    for b in self.blobs
                ],
                "keep": list(self.keep),
            }
        )


@dataclass(frozen=True, slots=True)
class BlobState:
    """in/blob/<sha256>.json: bytes on disk, the error code that ended the work, the source in use."""

    have: int
    error: str | None = None
    source: str | None = None

    def to_bytes(self) -> bytes:
        return _dump({"have": self.have, "error": self.error, "source": self.source})


@dataclass(frozen=True, slots=True)
class Link:
    """in/link.json: whether the courier has a session with the broker, its subscriptions answered.

    since: CLOCK_BOOTTIME seconds at which that began, of the boot named by boot_id; of another boot it
    says nothing.
    """

    up: bool
    since: float
    boot_id: str

    def to_bytes(self) -> bytes:
        return _dump({"up": self.up, "since": self.since, "boot_id": self.boot_id})


@dataclass(frozen=True, slots=True)
class WakeAt:
    """out/wake_at.json: when the worker wants to run again.

    boottime: CLOCK_BOOTTIME seconds in the boot named by boot_id, which decides; wall: the same moment as
    unix seconds, for people. In another boot it means: at once.
    """

    boot_id: str
    boottime: float
    wall: float

    def to_bytes(self) -> bytes:
        return _dump({"boot_id": self.boot_id, "boottime": self.boottime, "wall": self.wall})


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _load(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_integer(value: object, low: int = 0, high: int = MAX_INTEGER) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_time(value: object) -> TypeGuard[float]:
    # Also refuses NaN and the infinities, which json.loads lets through.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_text(value: object, cap: int) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= cap and value.isprintable()


def _is_list(value: object, cap: int) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) <= cap


def parse_want(data: bytes) -> Want | None:
    """out/want.json, or None if any part of it is not of the form."""
    value = _load(data)
    if value is None:
        return None
    manifests, roots, blobs = (value.get(key) for key in ("manifests", "roots", "blobs"))
    keep = value.get("keep", [])  # an agent before this one did not say so
    if not (
        _is_list(manifests, _MAX_MANIFESTS)
        and _is_list(roots, _MAX_ROOTS)
        and _is_list(blobs, _MAX_BLOBS)
        and _is_list(keep, _MAX_BLOBS)
    ):
        return None
    if not all(isinstance(sha256, str) and is_digest(sha256) for sha256 in keep):
        return None
    wanted_manifests = [want for entry in manifests if (want := _manifest_want(entry))]
    wanted_roots = [root for root in roots if _is_integer(root, 1, 999_999_999)]
    wanted_blobs = [blob for entry in blobs if (blob := _blob_want(entry))]
    found = len(wanted_manifests) + len(wanted_roots) + len(wanted_blobs)
    if found != len(manifests) + len(roots) + len(blobs):
        return None
    return Want(tuple(wanted_manifests), tuple(wanted_roots), tuple(wanted_blobs), tuple(keep))


def _manifest_want(entry: object) -> ManifestWant | None:
    if not isinstance(entry, dict):
        return None
    component, digest = entry.get("component"), entry.get("digest")
    if not (isinstance(component, str) and topics.is_id(component)):
        return None
    if not (isinstance(digest, str) and is_digest(digest)):
        return None
    return ManifestWant(component, digest)


def _blob_want(entry: object) -> BlobWant | None:
    if not isinstance(entry, dict):
        return None
    sha256, length, urls = entry.get("sha256"), entry.get("length"), entry.get("urls")
    rate, deadline = entry.get("rate"), entry.get("deadline")
    if not (isinstance(sha256, str) and is_digest(sha256) and _is_integer(length)):
        return None
    if not (_is_list(urls, _MAX_URLS) and all(_is_text(url, URL_CAP) for url in urls)):
        return None
    if not (rate is None or _is_integer(rate, 1)) or not (deadline is None or _is_time(deadline)):
        return None
    return BlobWant(sha256, length, tuple(urls), rate, deadline)


def parse_blob_state(data: bytes) -> BlobState | None:
    """in/blob/<sha256>.json, or None."""
    value = _load(data)
    if value is None or not _is_integer(value.get("have")):
        return None
    error, source = value.get("error"), value.get("source")
    if error is not None and not (isinstance(error, str) and _CODE.fullmatch(error)):
        return None
    if source is not None and not _is_text(source, URL_CAP):
        return None
    return BlobState(value["have"], error, source)


def parse_link(data: bytes) -> Link | None:
    """in/link.json, or None."""
    value = _load(data)
    if value is None or type(value.get("up")) is not bool:
        return None
    if not (_is_time(value.get("since")) and _is_text(value.get("boot_id"), 64)):
        return None
    return Link(value["up"], float(value["since"]), value["boot_id"])


def parse_wake_at(data: bytes) -> WakeAt | None:
    """out/wake_at.json, or None."""
    value = _load(data)
    if value is None or not _is_text(value.get("boot_id"), 64):
        return None
    if not (_is_time(value.get("boottime")) and _is_time(value.get("wall"))):
        return None
    return WakeAt(value["boot_id"], float(value["boottime"]), float(value["wall"]))


def seen_to_bytes(seen: Mapping[str, int]) -> bytes:
    """out/seen.json: {slot: newest arrival that the worker has dealt with}."""
    return _dump(dict(seen))


def parse_seen(data: bytes) -> dict[str, int] | None:
    """out/seen.json, or None."""
    value = _load(data)
    if value is None or len(value) > _MAX_SLOTS:
        return None
    if not all(is_slot(slot) and _is_integer(arrival, 0, MAX_NUMBER) for slot, arrival in value.items()):
        return None
    return value


def acked_to_bytes(number: int) -> bytes:
    """in/acked: the number of the highest event that was published and acknowledged, with all before it."""
    return number_text(number).encode() + b"\n"


def parse_acked(data: bytes) -> int | None:
    """in/acked, or None."""
    return parse_number(data.decode("ascii", "replace").removesuffix("\n"))


def attested_digest(attestation: bytes) -> str | None:
    """The sha256 that out/status.sig says it belongs to (contract section 1), or None."""
    value = _load(attestation)
    digest = None if value is None else value.get("sha256")
    return digest if isinstance(digest, str) and is_digest(digest) else None
