"""One installation in a process of its own, with what a worker loads and nothing else: see `install`."""

import argparse
import hashlib
from pathlib import Path

from fleetfoot_agent.layout import Layout, target_of, version_name
from fleetfoot_agent.worker import extract, gunzip
from fleetfoot_protocol import trust


def install(bundle: Path, root_file: Path, place: Path) -> None:
    """What the worker does with an ordered release, without the journal and the proving."""
    root = trust.first_root(root_file.read_bytes())
    envelope = (bundle / "release.dsse.json").read_bytes()
    release, digest = trust.verify_release(envelope, root)
    artifact = release.artifacts[0]
    index = (bundle / "blobs" / artifact.index_sha256).read_bytes()
    if hashlib.sha256(index).hexdigest() != artifact.index_sha256:
        raise SystemExit("the index is not what was signed")
    facts = extract.ArtifactFacts(
        format=artifact.format,
        length=artifact.length,
        sha256=artifact.sha256,
        chunk_size=artifact.chunk_size,
        index=index,
        unpacked_size=artifact.unpacked_size,
        member_count=artifact.member_count,
        tree_sha256=artifact.tree_sha256,
    )
    layout = Layout(place, release.component)
    layout.create()
    name = version_name(release.version, digest)
    staged = layout.staging / name
    staged.mkdir()
    with (bundle / "blobs" / artifact.sha256).open("rb") as blob:
        extract.extract(blob, facts, staged)
    layout.promote(staged, name, envelope, artifact.entrypoint)
    layout.swap_current(target_of(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("bundle", "root", "place"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--zlib", action="store_true")
    given = parser.parse_args()
    if given.zlib:
        import zlib

        gunzip._ENGINE = zlib
    given.place.mkdir(parents=True)
    install(given.bundle, given.root, given.place)
