"""The rules of trees (contract section 3)."""

import hashlib
import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_protocol import tree
from fleetfoot_protocol.tree import (
    Member,
    SeenPaths,
    TreeError,
    check_link,
    check_members,
    check_path,
    file_mode,
    tree_sha256,
)

APP = b"#!/bin/sh\n:\n"
VECTOR = [
    Member("d", "bin", 0o755),
    Member("f", "bin/app", 0o755, len(APP), hashlib.sha256(APP).hexdigest()),
    Member("l", "run", target="bin/app"),
]


def test_digest_is_the_contract_vector_in_every_order() -> None:
    for members in itertools.permutations(VECTOR):
        assert tree_sha256(members) == "8fe331395b117de9d6782fc7a70cf9368bbc4ab7bf82e820affe1af3df772db3"


def test_digest_sorts_by_utf8_bytes_and_not_by_folders() -> None:
    zeros = "0" * 64
    members = [Member("d", "a", 0o755), *(Member("f", p, 0o644, 0, zeros) for p in ("a/b", "a-b", "ä"))]
    lines = "".join(
        [
            "d\t0755\t-\t-\ta\n",
            f"f\t0644\t0\t{zeros}\ta-b\n",
            f"f\t0644\t0\t{zeros}\ta/b\n",
            f"f\t0644\t0\t{zeros}\tä\n",
        ]
    )
    assert tree_sha256(members) == hashlib.sha256(lines.encode()).hexdigest()


def test_digest_of_nothing_is_the_digest_of_no_bytes() -> None:
    assert tree_sha256([]) == hashlib.sha256(b"").hexdigest()


GOOD_PATHS = [
    "a",
    "a/b",
    "...",
    ".hidden",
    "a b",
    "-rf",
    "back\\slash",
    "größe/文件",
    "x" * 255,
    "ä" * 127,
    "/".join("d" * 32),
    "/".join(["y" * 200] * 5),
]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_ordinary_paths_are_accepted(path: str) -> None:
    check_path(path)


BAD_PATHS = [
    ("", "empty path"),
    ("/etc/passwd", "absolute"),
    ("a//b", "the part ''"),
    ("a/", "the part ''"),
    (".", "the part '.'"),
    ("./a", "the part '.'"),
    ("..", "the part '..'"),
    ("a/../b", "the part '..'"),
    ("a\tb", "U+0009"),
    ("a\nb", "U+000A"),
    ("a\0b", "U+0000"),
    ("a\x1b[31m", "U+001B"),
    ("a\x7f", "U+007F"),
    ("a\x85", "U+0085"),
    ("a\u2028b", "U+2028"),
    ("a\u2029b", "U+2029"),
    ("a\u202egnp.exe", "U+202E"),
    ("a\u2066b", "U+2066"),
    ("zero\u200bwidth", "U+200B"),
    ("a\ue000", "U+E000"),
    ("a\udc80", "U+DC80"),
    (unicodedata.normalize("NFD", "größe"), "NFC"),
    ("x" * 256, "part longer than 255"),
    ("ä" * 128, "part longer than 255"),
    ("/".join(["y" * 204] * 5) + "z", "longer than 1024"),
    ("/".join("d" * 33), "deeper than 32"),
]


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS)
def test_paths_that_mean_different_things_in_different_places_are_refused(path: str, reason: str) -> None:
    with pytest.raises(TreeError) as caught:
        check_path(path)
    assert caught.value.path == path
    assert reason in caught.value.reason
    with pytest.raises(TreeError):
        Member("d", path, 0o755)


def test_the_longest_path_is_1024_bytes() -> None:
    check_path("/".join(["y" * 204] * 5))


@given(st.text(max_size=40))
def test_error_messages_never_carry_what_acts_on_a_terminal(path: str) -> None:
    try:
        check_path(path)
    except TreeError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 700


GOOD_LINKS = [
    ("run", "bin/app"),
    ("run", "./bin/app"),
    ("run", "."),
    ("a/b/c", "../../lib/x"),
    ("a/b/c", "./.././../x"),
    ("a/b", ".."),
    ("dangling", "not/there"),
    ("self", "self"),
]


@pytest.mark.parametrize(("path", "target"), GOOD_LINKS)
def test_links_inside_the_tree_are_accepted(path: str, target: str) -> None:
    check_link(path, target)


BAD_LINKS = [
    ("run", "", "without a target"),
    ("run", "/etc/passwd", "absolute"),
    ("run", "..", "leaves the tree"),
    ("a/b", "../..", "leaves the tree"),
    ("a/b", "../../tree/x", "leaves the tree"),
    ("a/b", ".././../x", "leaves the tree"),
    ("a/b", "c/../d", "goes down before it goes up"),
    ("d/x", "../d/l/..", "goes down before it goes up"),
    ("run", "bin//app", "empty part"),
    ("run", "bin/", "empty part"),
    ("run", "a\tb", "U+0009"),
    ("run", "a\nf\t0755", "U+000A"),
    ("run", unicodedata.normalize("NFD", "ä"), "NFC"),
    ("run", "x" * 256, "part longer than 255"),
    ("run", "/".join("d" * 33), "deeper than 32"),
]


@pytest.mark.parametrize(("path", "target", "reason"), BAD_LINKS)
def test_links_out_of_the_tree_are_refused(path: str, target: str, reason: str) -> None:
    with pytest.raises(TreeError) as caught:
        check_link(path, target)
    assert reason in caught.value.reason
    with pytest.raises(TreeError):
        Member("l", path, target=target)


DOUBLES = [
    ("a", "a", "appears twice"),
    ("README", "readme", "collides with 'README'"),
    ("straße", "STRASSE", "collides"),
    ("É", "é", "collides"),
    ("\u017f", "s", "collides"),
    ("\u1e9b\u0323", "\u1e69", "collides"),
    ("d/A", "D/a", "collides"),
]


@pytest.mark.parametrize(("first", "second", "reason"), DOUBLES)
def test_paths_that_a_file_system_could_confuse_are_refused(first: str, second: str, reason: str) -> None:
    seen = SeenPaths()
    seen.add(first)
    with pytest.raises(TreeError) as caught:
        seen.add(second)
    assert reason in caught.value.reason
    assert len(seen) == 1


def test_unicode_forms_of_one_name_are_one_path_whatever_came_first() -> None:
    composed, decomposed = unicodedata.normalize("NFC", "größe"), unicodedata.normalize("NFD", "größe")
    for first, second in itertools.permutations((composed, decomposed)):
        seen = SeenPaths()
        seen.add(first)
        with pytest.raises(TreeError):
            seen.add(second)


def test_digest_refuses_the_same_member_twice() -> None:
    with pytest.raises(TreeError) as caught:
        tree_sha256([*VECTOR, VECTOR[0]])
    assert caught.value.reason == "appears twice"


def test_a_member_needs_its_folder_and_a_link_is_none() -> None:
    with pytest.raises(TreeError) as caught:
        check_members(VECTOR[1:])
    assert "'bin' is not a folder" in caught.value.reason
    through = [VECTOR[0], Member("l", "sys", target="bin"), Member("d", "sys/x", 0o755)]
    with pytest.raises(TreeError) as caught:
        tree_sha256(through)
    assert "'sys' is not a folder" in caught.value.reason


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_MEMBERS", 3)
    check_members(VECTOR)
    with pytest.raises(TreeError) as caught:
        check_members([*VECTOR, Member("d", "lib", 0o755)])
    assert "more than 3 members" in caught.value.reason


ZEROS = "0" * 64
IMPOSSIBLE = [
    ("f", 0o600, 0, ZEROS, ""),
    ("f", 0o4755, 0, ZEROS, ""),
    ("f", 0o777, 0, ZEROS, ""),
    ("f", 0o644, -1, ZEROS, ""),
    ("f", 0o644, 0, "-", ""),
    ("f", 0o644, 0, "0" * 63, ""),
    ("f", 0o644, 0, "A" * 64, ""),
    ("f", 0o644, 0, ZEROS, "target"),
    ("d", 0o700, 0, "-", ""),
    ("d", 0o755, 1, "-", ""),
    ("d", 0o755, 0, ZEROS, ""),
    ("d", 0o755, 0, "-", "target"),
    ("l", 0o777, 0, "-", "target"),
    ("l", 0, 6, "-", "target"),
    ("l", 0, 0, ZEROS, "target"),
    ("p", 0o644, 0, "-", ""),
]


@pytest.mark.parametrize(("kind", "mode", "size", "sha256", "target"), IMPOSSIBLE)
def test_a_member_that_no_tree_may_have_cannot_be_made(
    kind: tree.Kind, mode: int, size: int, sha256: str, target: str
) -> None:
    with pytest.raises(TreeError):
        Member(kind, "name", mode, size, sha256, target)


@pytest.mark.parametrize(
    ("raw", "mode"),
    [(0o777, 0o755), (0o4755, 0o755), (0o100, 0o755), (0o666, 0o644), (0o611, 0o644), (0, 0o644)],
)
def test_modes_become_one_of_two(raw: int, mode: int) -> None:
    assert file_mode(raw) == mode


def test_the_paths_of_a_tree_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_NAME_BYTES", 10)
    seen = tree.SeenPaths()
    seen.add("0123")
    seen.add("\u00fc\u00fc\u00fc")
    with pytest.raises(tree.TreeError, match="more than 10 bytes"):
        seen.add("x")
