"""What a build machine and a device call themselves must come to the same words."""

import pytest
from pydantic import TypeAdapter

from fleetfoot_client import building
from fleetfoot_protocol.fields import Word
from fleetfoot_protocol.platforms import normalise_machine, normalise_system


@pytest.mark.parametrize(
    ("machine", "word"),
    [
        ("x86_64", "amd64"), ("AMD64", "amd64"),
        ("aarch64", "arm64"), ("arm64", "arm64"), ("armv7l", "armv7"),
        ("armv8l", "armv7"), ("armv6l", "armv6"), ("i686", "386"), ("riscv64", "riscv64"), ("", ""),
    ],
)  # fmt: skip
def test_machines_get_the_word_of_the_manifests(machine: str, word: str) -> None:
    assert normalise_machine(machine) == word
    assert normalise_machine(word) == word


def test_this_machine_has_words_that_a_manifest_takes() -> None:
    place = building.this_place()
    assert TypeAdapter(list[Word]).validate_python([place.os, place.arch]) == [place.os, place.arch]
    assert normalise_system("Linux") == "linux"


@pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "a/b/c/d", ""])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no platform"):
        building.parse_place(text)
