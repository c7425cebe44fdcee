"""Rotation by the tools: what they make, devices follow; what a thief makes, they do not."""

from pathlib import Path

import pytest
from tests.client.rig import Fleet, Ran, Run

from fleetfoot_client.exits import Exit
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import TrustError
from fleetfoot_protocol.trust import TrustRoot


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "root.2.json"


def rotate(
    run: Run, fleet: Fleet, out: Path, *more: object, key: str = "root", root: Path | None = None
) -> Ran:
    return run(
        "trust", "rotate", "--root", root or fleet.root, "--root-key", fleet.key(key), "--out", out, *more
    )


def follows(fleet: Fleet, *paths: Path) -> TrustRoot:
    root = trust.first_root(fleet.root.read_bytes())
    for path in paths:
        root = trust.advance_root(root, path.read_bytes())
    return root


def test_a_release_key_is_replaced_and_the_old_one_is_gone(fleet: Fleet, run: Run, out: Path) -> None:
    done = rotate(run, fleet, out, "--replace", fleet.public("a"), fleet.public("c"), "--json")
    assert done.code == 0, done.err
    assert done.json["missing"] == []
    new = follows(fleet, out)
    assert new.roles.release.keys == (fleet.id("c"), fleet.id("b"))
    assert new.roles.release.threshold == 2
    assert new.epoch == 1
    assert fleet.id("a") not in new.keys


def test_another_director_raises_the_epoch(fleet: Fleet, run: Run, out: Path) -> None:
    done = rotate(run, fleet, out, "--replace", fleet.id("director"), fleet.public("director-2"))
    assert done.code == 0, done.err
    assert "the epoch rises to 2" in done.err
    new = follows(fleet, out)
    assert (new.epoch, new.roles.director.keys) == (2, (fleet.id("director-2"),))
    assert fleet.id("director") not in new.keys


def test_the_director_is_replaced_without_being_named(fleet: Fleet, run: Run, out: Path) -> None:
    assert rotate(run, fleet, out, "--director", fleet.public("director-2")).code == 0
    new = follows(fleet, out)
    assert (new.epoch, new.roles.director.keys) == (2, (fleet.id("director-2"),))


def test_an_operator_gets_another_key_and_keeps_the_roles(fleet: Fleet, run: Run, out: Path) -> None:
    rotate(run, fleet, out, "--replace", fleet.public("alice"), fleet.public("alice-2"))
    new = follows(fleet, out).roles.operators["alice"]
    assert new.key == fleet.id("alice-2")
    assert new.roles == trust.first_root(fleet.root.read_bytes()).roles.operators["alice"].roles


def test_an_operator_goes(fleet: Fleet, run: Run, out: Path) -> None:
    rotate(run, fleet, out, "--remove-operator", "alice")
    new = follows(fleet, out)
    assert new.roles.operators == {}
    assert fleet.id("alice") not in new.keys


def test_a_root_key_is_replaced_by_both_signatures(fleet: Fleet, run: Run, out: Path) -> None:
    done = rotate(run, fleet, out, "--replace", fleet.public("root"), fleet.public("root-2"), "--json")
    assert done.json["missing"] == ["0 of 1 signatures that root 2 demands"]
    with pytest.raises(TrustError):
        follows(fleet, out)
    signed = run("trust", "sign", out, "--key", fleet.key("root-2"), "--previous", fleet.root, "--json")
    assert signed.json["missing"] == []
    assert follows(fleet, out).roles.root.keys == (fleet.id("root-2"),)


def test_the_old_root_key_can_sign_later_though_it_is_no_longer_in_the_root(
    fleet: Fleet, run: Run, out: Path
) -> None:
    replace = ("--replace", fleet.public("root"), fleet.public("root-2"))
    assert rotate(run, fleet, out, *replace, key="root-2").code == 0
    assert run("trust", "sign", out, "--key", fleet.key("root")).code == Exit.TRUST
    assert run("trust", "sign", out, "--key", fleet.key("root"), "--previous", fleet.root).code == 0
    assert follows(fleet, out).version == 2


def test_a_key_is_removed_as_far_as_the_threshold_allows(fleet: Fleet, run: Run, out: Path) -> None:
    refused = rotate(run, fleet, out, "--remove", fleet.public("b"))
    assert (refused.code, out.exists()) == (Exit.FAILED, False)
    assert "threshold" in refused.err
    assert rotate(run, fleet, out, "--remove", fleet.public("b"), "--release-threshold", 1).code == 0
    assert follows(fleet, out).roles.release.keys == (fleet.id("a"),)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ([], Exit.USAGE),
        (["--replace", "0" * 16, "{c}"], Exit.FAILED),
        (["--replace", "{a}", "{b}"], Exit.FAILED),
        (["--remove", "{alice}"], Exit.FAILED),
        (["--remove", "{director}"], Exit.FAILED),
        (["--remove-operator", "nobody"], Exit.FAILED),
        (["--replace", "{a}", "nowhere.pub"], Exit.FAILED),
    ],
)
def test_what_cannot_be_rotated_is_refused_and_nothing_is_written(
    fleet: Fleet, run: Run, out: Path, extra: list[str], code: int
) -> None:
    names = {name: str(fleet.public(name)) for name in ("a", "b", "c", "alice", "director")}
    done = rotate(run, fleet, out, *(text.format(**names) for text in extra))
    assert (done.code, out.exists()) == (code, False), done.err
    assert "Traceback" not in done.err


def test_only_a_root_key_signs_a_rotation(fleet: Fleet, run: Run, out: Path) -> None:
    done = rotate(run, fleet, out, "--replace", fleet.public("a"), fleet.public("c"), key="a")
    assert (done.code, out.exists()) == (Exit.TRUST, False)


# -- the chain


def chained(fleet: Fleet, run: Run, tmp_path: Path) -> tuple[Path, Path]:
    second, third = tmp_path / "root.2.json", tmp_path / "root.3.json"
    rotate(run, fleet, second, "--replace", fleet.public("a"), fleet.public("c"))
    director = ("--replace", fleet.public("director"), fleet.public("director-2"))
    rotate(run, fleet, third, *director, root=second)
    return second, third


def test_a_chain_is_verified_in_any_order(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    second, third = chained(fleet, run, tmp_path)
    done = run("trust", "verify", third, fleet.root, second, "--json")
    assert done.code == 0, done.err
    assert [(step["version"], step["epoch"]) for step in done.json["versions"]] == [(1, 1), (2, 1), (3, 2)]
    assert "follows to root 3" in run("trust", "verify", fleet.root, second, third).out


def test_a_chain_with_a_gap_is_refused_by_the_name_of_the_file(
    fleet: Fleet, run: Run, tmp_path: Path
) -> None:
    _, third = chained(fleet, run, tmp_path)
    done = run("trust", "verify", fleet.root, third)
    assert done.code == Exit.TRUST
    assert str(third) in done.err
    assert "code: upgrade_root_refused" in done.err


def test_a_chain_continued_by_a_thief_is_refused(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    second, _ = chained(fleet, run, tmp_path)
    stolen = tmp_path / "stolen.json"
    replace = ("--replace", fleet.public("root"), fleet.public("thief"))
    rotate(run, fleet, stolen, *replace, key="thief", root=second)
    done = run("trust", "verify", fleet.root, second, stolen)
    assert done.code == Exit.TRUST
    assert "Traceback" not in done.err
