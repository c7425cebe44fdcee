"""Trust roots made, extended and signed by the tools hold for whoever verifies them."""

import json
from pathlib import Path

import pytest
from tests.client.rig import Fleet, Run

from fleetfoot_client import roots
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import TrustError
from fleetfoot_protocol.states import Right


def document(path: Path) -> trust.TrustRoot:
    return trust.first_root(path.read_bytes())


def test_a_first_root_binds_keys_thresholds_and_operators(fleet: Fleet) -> None:
    root = document(fleet.root)
    assert (root.fleet, root.version, root.epoch) == ("kitchens", 1, 1)
    assert root.roles.root.keys == (fleet.id("root"),)
    assert root.roles.release.keys == (fleet.id("a"), fleet.id("b"))
    assert root.roles.release.threshold == 2
    assert root.roles.director.keys == (fleet.id("director"),)
    assert root.may("alice", Right.ADMINISTER, "*")


def test_operators_have_their_roles_where_they_were_given(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    done = run(
        "trust", "init", "--fleet", "f", "--root-key", fleet.key("root"), "--release-key", fleet.public("a"),
        "--director", fleet.public("director"), "--out", tmp_path / "r.json",
        "--operator", f"bob={fleet.public('bob')}:group-admin@ovens,viewer,operator@ovens",
    )  # fmt: skip
    assert done.code == 0, done.err
    root = document(tmp_path / "r.json")
    assert root.may("bob", Right.STEER, "ovens")
    assert not root.may("bob", Right.STEER, "grills")
    assert root.may("bob", Right.READ, "grills")


def test_a_managers_request_becomes_a_root(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    request = {
        "fleet": "kitchens",
        "director": json.loads(fleet.public("director").read_text())["public"],
        "operators": {"carol": json.loads(fleet.public("carol").read_text())["public"]},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    arguments = [
        "trust", "init", "--request", tmp_path / "request.json", "--root-key", fleet.key("root"),
        "--release-key", fleet.public("a"), "--out",
    ]  # fmt: skip
    assert run(*arguments, tmp_path / "r.json").code == 0
    root = document(tmp_path / "r.json")
    assert root.roles.director.keys == (fleet.id("director"),)
    assert root.roles.operators["carol"].key == fleet.id("carol")
    assert root.may("carol", Right.ADMINISTER, "*")
    other = run(*arguments, tmp_path / "other.json", "--fleet", "others")
    assert (other.code, (tmp_path / "other.json").exists()) == (Exit.USAGE, False)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"fleet": "f"}', '{"fleet": "f", "director": "00", "operators": {}}']
)
def test_what_is_no_request_is_refused_by_name(fleet: Fleet, run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "request.json").write_text(content)
    done = run(
        "trust", "init", "--request", tmp_path / "request.json", "--root-key", fleet.key("root"),
        "--release-key", fleet.public("a"), "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code != 0
    assert "Traceback" not in done.err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (["--operator", "bob"], Exit.USAGE),
        (["--operator", "bob=x.pub:emperor"], Exit.USAGE),
        (["--operator", "Bob=x.pub"], Exit.USAGE),
        (["--expires", "0"], Exit.USAGE),
        (["--expires", "36501"], Exit.USAGE),
        (["--root-threshold", "2"], Exit.FAILED),
        (["--release-threshold", "3"], Exit.FAILED),
        (["--release-key", "nowhere.pub"], Exit.FAILED),
    ],
)
def test_what_cannot_be_a_root_is_refused_and_nothing_is_written(
    fleet: Fleet, run: Run, tmp_path: Path, extra: list[str], code: int
) -> None:
    done = run(
        "trust", "init", "--fleet", "f", "--root-key", fleet.key("root"), "--release-key", fleet.public("a"),
        "--director", fleet.public("director"), "--operator", f"alice={fleet.public('alice')}",
        "--out", tmp_path / "r.json", *extra,
    )  # fmt: skip
    assert done.code == code, done.err
    assert not (tmp_path / "r.json").exists()


def test_a_root_is_never_overwritten(fleet: Fleet, run: Run) -> None:
    before = fleet.root.read_bytes()
    done = run(
        "trust", "init", "--fleet", "f", "--root-key", fleet.key("root"), "--release-key", fleet.public("a"),
        "--director", fleet.public("director"), "--operator", f"alice={fleet.public('alice')}",
        "--out", fleet.root,
    )  # fmt: skip
    assert "code: exists_already" in done.err
    assert fleet.root.read_bytes() == before


def test_a_successor_chains_to_its_root(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    done = run(
        "trust", "add", "--root", fleet.root, "--root-key", fleet.key("root"), "--out", tmp_path / "2.json",
        "--release-key", fleet.public("c"), "--operator", f"bob={fleet.public('bob')}:operator@ovens",
        "--operator", f"alice={fleet.public('alice')}:viewer@grills",
    )  # fmt: skip
    assert done.code == 0, done.err
    have = document(fleet.root)
    new = trust.advance_root(have, (tmp_path / "2.json").read_bytes())
    assert new.version == 2
    assert new.expires == have.expires
    assert new.roles.release.keys == (fleet.id("a"), fleet.id("b"), fleet.id("c"))
    assert new.roles.release.threshold == 2
    assert new.may("bob", Right.DEVICE_ACT, "ovens")
    assert new.may("alice", Right.ADMINISTER, "ovens")


def test_a_second_root_key_completes_a_successor_that_needs_both(
    fleet: Fleet, run: Run, tmp_path: Path
) -> None:
    second = tmp_path / "2.json"
    added = run(
        "trust", "add", "--root", fleet.root, "--root-key", fleet.key("root"), "--out", second,
        "--root-add", fleet.public("root2"), "--root-threshold", 2, "--json",
    )  # fmt: skip
    assert added.json["missing"] == ["1 of 2 signatures that root 2 demands"]
    with pytest.raises(TrustError) as caught:
        trust.advance_root(document(fleet.root), second.read_bytes())
    assert caught.value.code == Code.UPGRADE_ROOT_REFUSED
    assert run("trust", "show", second).code == Exit.TRUST
    signed = run("trust", "sign", second, "--key", fleet.key("root2"), "--previous", fleet.root, "--json")
    assert signed.json["missing"] == []
    assert trust.advance_root(document(fleet.root), second.read_bytes()).version == 2
    assert run("trust", "show", second).code == 0


def test_the_previous_threshold_counts_too(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    second = tmp_path / "2.json"
    run(
        "trust", "add", "--root", fleet.root, "--root-key", fleet.key("root2"), "--out", second,
        "--root-add", fleet.public("root2"),
    )  # fmt: skip
    envelope, new = roots.load(second)
    assert roots.missing(envelope, new) == []
    assert roots.missing(envelope, new, document(fleet.root)) == ["0 of 1 signatures that root 1 demands"]


def test_only_root_keys_sign_roots(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    before = fleet.root.read_bytes()
    done = run("trust", "sign", fleet.root, "--key", fleet.key("a"))
    assert done.code == Exit.TRUST
    assert "code: upgrade_identity_not_allowed" in done.err
    assert fleet.root.read_bytes() == before


def test_a_root_that_is_not_validly_signed_is_not_extended(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    envelope = json.loads(fleet.root.read_text())
    envelope["signatures"] = []
    fleet.root.write_text(json.dumps(envelope))
    done = run(
        "trust", "add", "--root", fleet.root, "--root-key", fleet.key("root"), "--out", tmp_path / "2.json",
        "--release-key", fleet.public("c"),
    )  # fmt: skip
    assert done.code == Exit.TRUST
    assert not (tmp_path / "2.json").exists()


@pytest.mark.parametrize(
    ("extra", "code"), [([], Exit.USAGE), (["--operator", "alice={bob}:viewer"], Exit.FAILED),
                        (["--operator", "bob={bob}"], Exit.USAGE), (["--release-key", "{a}"], Exit.FAILED)],
)  # fmt: skip
def test_an_addition_that_adds_nothing_or_replaces_somebody_is_refused(
    fleet: Fleet, run: Run, tmp_path: Path, extra: list[str], code: int
) -> None:
    filled = [text.format(a=fleet.public("a"), bob=fleet.public("bob")) for text in extra]
    out = tmp_path / "2.json"
    done = run("trust", "add", "--root", fleet.root, "--root-key", fleet.key("root"), "--out", out, *filled)
    assert (done.code, out.exists()) == (code, False), done.err


def test_show_tells_roles_thresholds_operators_and_validity(fleet: Fleet, run: Run) -> None:
    plain, value = run("trust", "show", fleet.root), run("trust", "show", fleet.root, "--json").json
    assert plain.code == 0
    assert f"release   2 of 2  {fleet.id('a')} {fleet.id('b')}" in plain.out
    assert f"alice     {fleet.id('alice')}  admin@*" in plain.out
    assert value["valid"] is True
    assert value["signers"] == [fleet.id("root")]
    assert value["roles"]["release"]["threshold"] == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_file_that_holds_no_root_is_refused(fleet: Fleet, run: Run, content: bytes) -> None:
    fleet.root.write_bytes(content)
    done = run("trust", "show", fleet.root)
    assert done.code != 0
    assert "Traceback" not in done.err
