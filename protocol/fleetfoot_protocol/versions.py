"""Versions: SemVer 2.0.0 without build metadata, at most 64 characters (contract section 2)."""

from functools import lru_cache

import semver

MAX_LENGTH = 64
_NUMBER = "(0|[1-9][0-9]*)"
_WORD = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
#: The form, as schemas tell it.
PATTERN = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_WORD}(\.{_WORD})*)?$"


@lru_cache(4096)
def check(text: str) -> str:
    """Return `text` if it is a version of the contract, else raise ValueError."""
    if len(text) > MAX_LENGTH or not semver.Version.is_valid(text) or not text.isascii():
        raise ValueError("not a SemVer version")
    if semver.Version.parse(text).build is not None:
        raise ValueError("a version with build metadata")
    return text


def key(text: str) -> semver.Version:
    """Something that orders versions by SemVer precedence (section 11)."""
    return semver.Version.parse(text)


def major(text: str) -> int:
    """The major number of a version."""
    return int(semver.Version.parse(text).major)
