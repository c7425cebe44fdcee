"""Building a release from a folder: the same folder and the same answers give the same bytes.

The manifest's `created` is SOURCE_DATE_EPOCH where it is set, else the newest modification time of the
tree's files; the counter is one more than the highest of the component's other bundles beside it.
"""

import os
import platform as machine
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fleetfoot_client import bundle as bundles
from fleetfoot_client import files
from fleetfoot_client.archive import ArchiveFacts, Format, build_archive
from fleetfoot_client.bundle import Bundle
from fleetfoot_protocol import dsse, platforms, times
from fleetfoot_protocol.documents import Artifact, Release
from fleetfoot_protocol.dsse import Envelope, PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Channel


@dataclass(frozen=True, slots=True)
class Place:
    """A platform that a release is built for; `libc` and `abi` only where the release is bound to them."""

    os: str
    arch: str
    libc: str | None = None
    abi: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.arch, self.libc, self.abi) if part)


def parse_place(text: str) -> Place:
    """`os/arch[/libc]`, e.g. `linux/amd64`; machines may be named as they name themselves. ValueError."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"{text[:80]!a} is no platform: os/arch or os/arch/libc, e.g. linux/arm64")
    libc = parts[2].lower() if len(parts) == 3 else None
    return Place(platforms.normalise_system(parts[0]), platforms.normalise_machine(parts[1]), libc)


def this_place() -> Place:
    """The platform of this machine, bound to no C library."""
    return Place(platforms.normalise_system(machine.system()), platforms.normalise_machine(machine.machine()))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a release that its folder does not say. A counter of None is chosen."""

    component: str
    version: str
    entrypoint: str
    channel: Channel = "stable"
    places: tuple[Place, ...] = ()
    notes: str = ""
    counter: int | None = None
    min_counter: int = 0
    min_agent: str = "0.1.0"
    hw: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    form: Format = "tar.gz"


@dataclass(frozen=True, slots=True)
class Built:
    """The bundle, and whether the very same release was there already (its signatures are kept)."""

    bundle: Bundle
    unchanged: bool


def build(folder: Path, recipe: Recipe, out: Path, environ: Mapping[str, str], *, replace: bool) -> Built:
    """Build the bundle in `out`.

    FleetfootError `exists_already` if the version is there with other bytes and not to be replaced,
    `request_invalid` for what cannot be a release, `not_found`; UpgradeError `upgrade_archive_refused`.
    """
    check_entrypoint(folder, recipe.entrypoint)
    created = times.to_text(_created(folder, environ))
    out.mkdir(parents=True, exist_ok=True)
    final = out / bundles.name_of(recipe.component, recipe.version)
    present = bundles.load(final) if final.exists() else None
    counter = _counter(recipe, out, present)
    # Beside its place, so that it can be renamed there whole.
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=out))
    try:
        made = _make(folder, recipe, counter, created, work)
        if present is not None and present.digest == made.digest:
            bundles.check_blobs(present)
            return Built(present, unchanged=True)
        if present is not None and not replace:
            raise FleetfootError(
                "exists_already",
                f"{final} holds version {recipe.version} with other content",
                remedy="raise the version, or build with --replace if it was never published",
            )
        work.chmod(0o755)
        _install(work, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Built(Bundle(final, made.envelope, made.release), unchanged=False)


def check_entrypoint(folder: Path, entrypoint: str) -> None:
    """FleetfootError unless the entrypoint is an executable file inside the folder."""
    if not folder.is_dir():
        raise FleetfootError("not_found", f"there is no folder {folder}", remedy="name the folder to pack")
    path = folder / entrypoint
    what = f"the entrypoint {entrypoint!r}"
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise FleetfootError(
            "not_found", f"{what} is no file in {folder}", remedy="name a file relative to the folder"
        )
    if not path.stat().st_mode & stat.S_IXUSR:
        raise FleetfootError(
            "request_invalid", f"{what} is not executable", remedy=f"chmod +x {path}, then build again"
        )


def _make(folder: Path, recipe: Recipe, counter: int, created: str, work: Path) -> Bundle:
    """Archive, index and unsigned envelope in the folder `work`."""
    blobs = work / bundles.BLOBS
    blobs.mkdir()
    packed = blobs / "packing"
    found = build_archive(folder, packed, form=recipe.form)
    packed.rename(blobs / found.sha256)
    files.write_new(blobs / found.index_sha256, found.index)
    release = _manifest(recipe, found, counter, created)
    envelope = Envelope(PayloadType.RELEASE, release.payload(), ())
    files.write_new(work / bundles.ENVELOPE, dsse.encode(envelope))
    return Bundle(work, envelope, release)


def _manifest(recipe: Recipe, found: ArchiveFacts, counter: int, created: str) -> Release:
    try:
        artifacts = tuple(_artifact(place, recipe, found) for place in recipe.places or (this_place(),))
        return Release(
            component=recipe.component,
            version=recipe.version,
            channel=recipe.channel,
            counter=counter,
            min_counter=recipe.min_counter,
            min_agent=recipe.min_agent,
            notes=recipe.notes,
            created=created,
            artifacts=artifacts,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise FleetfootError(
            "request_invalid",
            f"no such release can be: {where + ': ' if where else ''}{message}",
            remedy="correct the named argument and build again",
        ) from None


def _artifact(place: Place, recipe: Recipe, found: ArchiveFacts) -> Artifact:
    return Artifact(
        os=place.os,
        arch=place.arch,
        libc=place.libc,
        abi=place.abi,
        hw=recipe.hw,
        format=found.format,
        length=found.length,
        sha256=found.sha256,
        chunk_size=found.chunk_size,
        index_sha256=found.index_sha256,
        unpacked_size=found.unpacked_size,
        member_count=found.member_count,
        tree_sha256=found.tree_sha256,
        entrypoint=recipe.entrypoint,
        sources=recipe.sources,
    )


def _install(work: Path, final: Path) -> None:
    """Put the finished bundle in its place; a bundle that stood there goes only after the new one stands."""
    if not final.exists():
        work.rename(final)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old.", dir=final.parent))
    final.rename(old)
    work.rename(final)
    shutil.rmtree(old)


def _created(folder: Path, environ: Mapping[str, str]) -> int:
    """Unix seconds. Files only: folders change by things that leave no trace in a release."""
    fixed = environ.get("SOURCE_DATE_EPOCH", "")
    if fixed:
        if not fixed.isascii() or not fixed.isdigit() or len(fixed) > 11:
            raise FleetfootError(
                "request_invalid",
                f"SOURCE_DATE_EPOCH is {fixed[:40]!a}, not a number of seconds",
                remedy="unset it, or set it to seconds since 1970",
            )
        return int(fixed)
    found = [os.lstat(Path(base) / name).st_mtime for base, _, names in os.walk(folder) for name in names]
    return max(0, int(max(found, default=0)))


def _counter(recipe: Recipe, out: Path, present: Bundle | None) -> int:
    used = {
        other.release.counter: other.release.version
        for other in _siblings(out)
        if other.release.component == recipe.component and other.release.version != recipe.version
    }
    if recipe.counter is not None:
        if recipe.counter in used:
            raise FleetfootError(
                "conflict",
                f"version {used[recipe.counter]} has the counter {recipe.counter} already",
                remedy="choose another counter, or leave --counter out",
            )
        return recipe.counter
    if present is not None:
        return present.release.counter
    return 1 + max(used, default=0)


def _siblings(out: Path) -> list[Bundle]:
    """The bundles in a folder. One that cannot be read is an error: its counter may not be used again."""
    return [bundles.load(path.parent) for path in sorted(out.glob(f"[!.]*/{bundles.ENVELOPE}"))]
