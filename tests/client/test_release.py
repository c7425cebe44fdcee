"""Releases built, signed and verified offline: same input same bytes, nothing half, nothing by accident."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import Fleet, Run

from fleetfoot_client import building, bundle
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import trust

COMMON = ["--component", "kiosk", "--entrypoint", "bin/kiosk"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "dist"


def build(run: Run, app: Path, out: Path, version: str, *extra: object) -> Any:
    done = run("release", "build", app, *COMMON, "--version", version, "--out", out, "--json", *extra)
    assert done.code == 0, done.out
    return done.json


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def signed(run: Run, fleet: Fleet, app: Path, out: Path) -> Path:
    path = Path(build(run, app, out, "1.0.0")["bundle"])
    assert run("release", "sign", path, "--key", fleet.key("a"), "--key", fleet.key("b")).code == 0
    return path


def test_a_copied_tree_gives_the_same_bytes(run: Run, app: Path, tmp_path: Path) -> None:
    build(run, app, tmp_path / "one", "1.0.0")
    shutil.copytree(app, tmp_path / "copy")
    build(run, tmp_path / "copy", tmp_path / "two", "1.0.0")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 3


def test_created_is_the_newest_file_or_source_date_epoch(
    run: Run, app: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in app.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    os.utime(app / "data.txt", (1_100_000_000, 1_100_000_000))
    assert build(run, app, out, "1.0.0")["created"] == "2004-11-09T11:33:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1200000000")
    assert build(run, app, out, "1.1.0")["created"] == "2008-01-10T21:20:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    done = run("release", "build", app, *COMMON, "--version", "1.2.0", "--out", out)
    assert "code: request_invalid" in done.err


def test_the_counter_follows_the_components_other_bundles(run: Run, app: Path, out: Path) -> None:
    assert build(run, app, out, "1.0.0")["counter"] == 1
    assert build(run, app, out, "1.1.0")["counter"] == 2
    assert build(run, app, out, "2.0.0", "--counter", 10)["counter"] == 10
    assert build(run, app, out, "2.1.0", "--component", "other")["counter"] == 1
    assert build(run, app, out, "2.1.0")["counter"] == 11
    assert build(run, app, out, "1.1.0")["counter"] == 2
    taken = run("release", "build", app, *COMMON, "--version", "3.0.0", "--counter", 2, "--out", out)
    assert (taken.code, "code: conflict" in taken.err) == (Exit.FAILED, True)


def test_building_the_same_again_keeps_bundle_and_signatures(
    run: Run, fleet: Fleet, app: Path, out: Path
) -> None:
    path = signed(run, fleet, app, out)
    before = content(path)
    assert build(run, app, out, "1.0.0")["unchanged"] is True
    assert content(path) == before


def test_other_bytes_under_the_same_version_are_refused_unless_replaced(
    run: Run, fleet: Fleet, app: Path, out: Path
) -> None:
    path = signed(run, fleet, app, out)
    before = content(path)
    (app / "data.txt").write_text("other")
    done = run("release", "build", app, *COMMON, "--version", "1.0.0", "--out", out)
    assert (done.code, "code: exists_already" in done.err) == (Exit.FAILED, True)
    assert content(path) == before
    assert build(run, app, out, "1.0.0", "--replace")["counter"] == 1
    loaded = bundle.load(path)
    assert loaded.envelope.signatures == ()
    bundle.check_blobs(loaded)
    assert [entry.name for entry in out.iterdir()] == ["kiosk-1.0.0"]


def test_everything_said_stands_in_the_manifest(run: Run, app: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("first\nsecond — ü\n")
    made = build(
        run, app, out, "1.0.0-rc.1", "--channel", "beta", "--notes", f"@{tmp_path}/notes.md",
        "--platform", "linux/x86_64", "--platform", "Linux/aarch64/musl", "--min-counter", 1,
        "--min-agent", "0.2.0", "--hw", "rpi4", "--source", "https://cdn.example.org/blobs",
    )  # fmt: skip
    release = bundle.load(Path(made["bundle"])).release
    assert (release.channel, release.notes) == ("beta", "first\nsecond — ü")
    assert (release.min_counter, release.min_agent) == (1, "0.2.0")
    places = [(a.os, a.arch, a.libc) for a in release.artifacts]
    assert places == [("linux", "amd64", None), ("linux", "arm64", "musl")]
    assert {a.sources for a in release.artifacts} == {("https://cdn.example.org/blobs",)}
    assert {a.hw for a in release.artifacts} == {("rpi4",)}


def test_the_platform_is_this_machines_if_none_is_named(run: Run, app: Path, out: Path) -> None:
    assert build(run, app, out, "1.0.0")["platforms"] == [str(building.this_place())]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--entrypoint", "bin/none"], "not_found"),
        (["--entrypoint", "bin"], "not_found"),
        (["--entrypoint", "../app/bin/kiosk/../../../outside"], "not_found"),
        (["--entrypoint", "data.txt"], "request_invalid"),
        (["--min-counter", "5"], "request_invalid"),
        (["--source", "ftp://example.org"], "request_invalid"),
        (["--notes", "hidden\u202e"], "request_invalid"),
        (["--notes", "@nowhere.md"], "not_found"),
    ],
)
def test_what_cannot_be_a_release_is_refused_and_leaves_nothing(
    run: Run, app: Path, out: Path, arguments: list[str], code: str
) -> None:
    done = run("release", "build", app, *COMMON, "--version", "1.0.0", "--out", out, "--json", *arguments)
    assert done.json["error"]["code"] == code
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--version", "1.0"], ["--version", "1.0.0+b"], ["--platform", "linux"]])
def test_wrong_forms_are_wrong_usage(run: Run, app: Path, out: Path, wrong: list[str]) -> None:
    done = run("release", "build", app, *COMMON, "--version", "1.0.0", "--out", out, *wrong)
    assert done.code == Exit.USAGE


def test_an_entrypoint_that_leads_outside_is_refused(run: Run, app: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (app / "bin" / "link").symlink_to("../../tool")
    done = run(
        "release", "build", app, "--component", "kiosk", "--entrypoint", "bin/link",
        "--version", "1.0.0", "--out", out, "--json",
    )  # fmt: skip
    assert done.json["error"]["code"] == "not_found"


def test_a_fully_signed_bundle_verifies_and_names_its_signers(
    run: Run, fleet: Fleet, app: Path, out: Path
) -> None:
    path = signed(run, fleet, app, out)
    done = run("release", "verify", path, "--root", fleet.root, "--json")
    assert done.code == 0
    assert done.json["signers"] == sorted([fleet.id("a"), fleet.id("b")])
    assert done.json["threshold"] == 2
    root = trust.first_root(fleet.root.read_bytes())
    release, digest = trust.verify_release((path / bundle.ENVELOPE).read_bytes(), root)
    assert (release.version, digest) == ("1.0.0", done.json["digest"])


def test_one_signature_of_two_is_not_enough_and_twice_the_same_is_one(
    run: Run, fleet: Fleet, app: Path, out: Path
) -> None:
    path = Path(build(run, app, out, "1.0.0")["bundle"])
    for _ in range(2):
        done = run("release", "sign", path, "--key", fleet.key("a"), "--root", fleet.root, "--json")
        assert done.json["missing"] == 1
    verified = run("release", "verify", path, "--root", fleet.root)
    assert verified.code == Exit.TRUST
    assert "code: upgrade_threshold_not_met" in verified.err


def test_a_key_without_the_role_does_not_sign_where_the_root_is_known(
    run: Run, fleet: Fleet, app: Path, out: Path
) -> None:
    path = Path(build(run, app, out, "1.0.0")["bundle"])
    done = run("release", "sign", path, "--key", fleet.key("alice"), "--root", fleet.root)
    assert done.code == Exit.TRUST
    assert bundle.load(path).envelope.signatures == ()
    assert run("release", "sign", path, "--key", fleet.key("alice")).code == 0
    verified = run("release", "verify", path, "--root", fleet.root, "--json")
    assert verified.json["error"]["code"] == "upgrade_identity_not_allowed"


def damage(path: Path, which: str, how: str) -> None:
    release = bundle.load(path).release
    artifact = release.artifacts[0]
    blob = path / "blobs" / (artifact.sha256 if which == "artifact" else artifact.index_sha256)
    data = bytearray(blob.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    elif how == "longer":
        data += b"x"
    elif how == "shorter":
        data = data[:-1]
    elif how == "empty":
        data.clear()
    blob.write_bytes(data)
    if how == "gone":
        blob.unlink()


@pytest.mark.parametrize("which", ["artifact", "index"])
@pytest.mark.parametrize(
    ("how", "code", "ends"),
    [
        ("flip", "upgrade_checksum_mismatch", Exit.TRUST),
        ("longer", "upgrade_length_mismatch", Exit.TRUST),
        ("shorter", "upgrade_", Exit.TRUST),
        ("empty", "upgrade_length_mismatch", Exit.TRUST),
        ("gone", "not_found", Exit.FAILED),
    ],
)
def test_a_damaged_blob_is_neither_verified_nor_signed(
    run: Run, fleet: Fleet, app: Path, out: Path, which: str, how: str, code: str, ends: int
) -> None:
    path = signed(run, fleet, app, out)
    damage(path, which, how)
    for command in (["verify", path, "--root", fleet.root], ["sign", path, "--key", fleet.key("a")]):
        done = run("release", *command, "--json")
        assert done.code == ends
        assert done.json["error"]["code"].startswith(code)


def test_a_changed_manifest_loses_its_signatures(run: Run, fleet: Fleet, app: Path, out: Path) -> None:
    path = signed(run, fleet, app, out)
    other = Path(build(run, app, out, "2.0.0")["bundle"])
    ours, theirs = (json.loads((p / bundle.ENVELOPE).read_text()) for p in (other, path))
    (other / bundle.ENVELOPE).write_text(json.dumps({**ours, "signatures": theirs["signatures"]}))
    done = run("release", "verify", other, "--root", fleet.root, "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.TRUST, "upgrade_signature_invalid")


def test_a_root_that_is_not_signed_verifies_nothing(run: Run, fleet: Fleet, app: Path, out: Path) -> None:
    path = signed(run, fleet, app, out)
    value = json.loads(fleet.root.read_text())
    fleet.root.write_text(json.dumps({**value, "signatures": []}))
    done = run("release", "verify", path, "--root", fleet.root, "--json")
    assert done.code == Exit.TRUST
    assert "cannot be relied on" in done.json["error"]["message"]
    fleet.root.write_text("{}")
    assert f"{fleet.root} holds no trust root" in run("release", "verify", path, "--root", fleet.root).err


def test_a_root_is_no_release(run: Run, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    shutil.copy(fleet.root, tmp_path / "no" / bundle.ENVELOPE)
    done = run("release", "verify", tmp_path / "no", "--root", fleet.root, "--json")
    assert done.json["error"]["code"] == "upgrade_type_mismatch"
