"""docs/codes.md, from the table of codes: what each means, what to do, and which answers what."""

from collections.abc import Iterable, Sequence

from fleetfoot_protocol.codes import TABLE, Code, Family
from fleetfoot_protocol.errors import GENERAL_REMEDIES

WARNING = "<!-- Written by `make docs` from the code; change it there. -->"

_FAMILIES: dict[Family, str] = {
    Family.POLICY: "The device's own policy and memory say no. Nothing is broken.",
    Family.DEFERRED: "Not now. The device goes on by itself when the reason is gone.",
    Family.TRUST: "Something is not signed as it must be, or is old, or is meant for somebody else. Nothing "
    "of it was used.",
    Family.FORM: "The bytes are not what the contract describes.",
    Family.FIT: "The release is good, but not for this device.",
    Family.TRANSFER: "The artifact did not arrive, or not as it was signed.",
    Family.DISK: "What arrived could not be put on the disk, or must not be.",
    Family.ACTIVATION: "The new version was started and did not prove itself.",
    Family.COURSE: "What became of the work as a whole.",
}

_C = Code
#: (in short, what happens, the codes that answer it)
REJECTED: Sequence[tuple[str, str, tuple[Code, ...]]] = (
    ("sig", "a payload with one byte changed or written anew", (_C.UPGRADE_SIGNATURE_INVALID,)),
    ("sig", "a signature of any wrong length or shape, or a malleable one", (_C.UPGRADE_SIGNATURE_INVALID,)),
    (
        "key",
        "signed by a key that the trust root does not name, or no longer",
        (_C.UPGRADE_SIGNATURE_INVALID,),
    ),
    ("key", "signed by a key of another role", (_C.UPGRADE_IDENTITY_NOT_ALLOWED,)),
    ("threshold", "fewer distinct keys than the trust root demands", (_C.UPGRADE_THRESHOLD_NOT_MET,)),
    ("downgrade", "a release whose counter is below the device's floor", (_C.UPGRADE_BELOW_FLOOR,)),
    ("mix", "the digest of one release, the manifest of another", (_C.UPGRADE_RELEASE_MISMATCH,)),
    ("expired", "a document past its expiry", (_C.UPGRADE_EXPIRED,)),
    ("root", "a trust root that skips a version or lacks the old keys", (_C.UPGRADE_ROOT_REFUSED,)),
    (
        "scope",
        "a valid document of another fleet, group, device or component",
        (_C.UPGRADE_SCOPE_MISMATCH,),
    ),
    ("type", "a valid document signed as another type", (_C.UPGRADE_TYPE_MISMATCH,)),
    ("incompatible", "no artifact for this system and machine", (_C.UPGRADE_NO_MATCHING_ARTIFACT,)),
    ("incompatible", "no artifact for this hardware", (_C.UPGRADE_INCOMPATIBLE,)),
    ("incompatible", "a release that needs a newer agent", (_C.UPGRADE_AGENT_TOO_OLD,)),
    (
        "malformed",
        "unknown fields, other types, odd numbers, deep nesting, hidden characters, bad versions",
        (_C.UPGRADE_MALFORMED,),
    ),
    ("size", "an envelope or document beyond 64 KiB", (_C.UPGRADE_TOO_LARGE,)),
    ("spec", "a document of a newer specification", (_C.UPGRADE_SPEC_UNSUPPORTED,)),
    ("length", "an endless body, or one of another length than signed", (_C.UPGRADE_LENGTH_MISMATCH,)),
    ("hash", "the right length with other bytes", (_C.UPGRADE_CHECKSUM_MISMATCH,)),
    ("slow", "a source that trickles", (_C.UPGRADE_DOWNLOAD_SLOW,)),
    ("download", "no source from which the whole can be had", (_C.UPGRADE_DOWNLOAD_FAILED,)),
    (
        "url",
        "a redirect to another scheme or a forbidden address, or too many of them",
        (_C.UPGRADE_URL_REFUSED,),
    ),
    ("tls", "a certificate that is expired, foreign or unknown", (_C.UPGRADE_TLS_FAILED,)),
    (
        "archive",
        "paths that leave the tree, hard links, devices, doubles, bombs, truncated streams",
        (_C.UPGRADE_ARCHIVE_REFUSED,),
    ),
    ("tree", "an extracted tree that is not the signed one", (_C.UPGRADE_TREE_MISMATCH,)),
    ("disk_full", "no space, inodes or quota at any step", (_C.UPGRADE_DISK_FULL,)),
    ("read_only", "a file system that became read-only", (_C.UPGRADE_READ_ONLY,)),
    ("io", "an I/O error, also one that only fsync tells", (_C.UPGRADE_IO_ERROR,)),
    (
        "layout",
        "a `current` that is a folder, dangles or belongs to somebody else",
        (_C.UPGRADE_LAYOUT_REFUSED,),
    ),
    (
        "blacklisted",
        "the same release again after it failed here",
        (_C.UPGRADE_REFUSED_BEFORE,),
    ),
    (
        "rolled back",
        "a new version that exits, hangs or proves unhealthy",
        (_C.UPGRADE_BOOT_FAILED, _C.UPGRADE_HEALTH_FAILED, _C.UPGRADE_ROLLED_BACK),
    ),
)
ALARMS: Sequence[tuple[str, str, tuple[Code, ...]]] = (
    ("rollback", "an older document after a newer one", (_C.UPGRADE_SEQUENCE_REPLAYED,)),
    ("equivocation", "two documents of one sequence; the first stays", (_C.UPGRADE_EQUIVOCATION,)),
    ("freeze", "heartbeats withheld beyond their expiry", (_C.UPGRADE_STALE,)),
    ("root_limit", "a chain of more than 256 trust roots", (_C.UPGRADE_ROOT_REFUSED,)),
    ("journal", "a journal that is empty, garbage or of a future form", (_C.UPGRADE_JOURNAL_REBUILT,)),
    ("crash", "a component that dies after its probation", (_C.UPGRADE_BOOT_FAILED,)),
    ("both_bad", "a previous version that is broken too", (_C.UPGRADE_BOTH_BAD,)),
    ("spoof", "a status that the device itself did not sign", (_C.UPGRADE_SIGNATURE_INVALID,)),
    ("replay", "a status with a counter that is not higher", (_C.UPGRADE_SEQUENCE_REPLAYED,)),
    ("replay", "a status with the same counter and other bytes", (_C.UPGRADE_EQUIVOCATION,)),
    ("no way back", "what runs was withdrawn, and nothing to return to", (_C.UPGRADE_NO_WAY_BACK,)),
    ("poison", "an input that crashed the worker three times; it is skipped", (_C.UPGRADE_INTERNAL,)),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _family(family: Family) -> str:
    rows = [
        (f"`{code}`", str(info.severity), info.meaning, info.remedy)
        for code, info in TABLE.items()
        if info.family is family
    ]
    head = ("code", "severity", "meaning", "remedy")
    return f"### {str(family).capitalize()}\n\n{_FAMILIES[family]}\n\n{table(head, rows)}"


def _answers(rows: Iterable[tuple[str, str, tuple[Code, ...]]]) -> str:
    told = ((short, what, ", ".join(f"`{code}`" for code in codes)) for short, what, codes in rows)
    return table(("in short", "what happens", "code"), told)


def codes_page() -> str:
    """The whole of docs/codes.md."""
    general = table(("code", "remedy"), ((f"`{code}`", remedy) for code, remedy in GENERAL_REMEDIES.items()))
    families = "\n\n".join(_family(family) for family in Family)
    return f"""{WARNING}

# Error codes

A code says what happened in one stable word. It stands as `errorcode` on events (and as `error_code` in
their data), in the answers and errors of a device's status, and in what the commands print; wherever it
is shown, its remedy is shown too. Severities: `info` needs nobody, `warning` a look, `error` an act,
`critical` an act now.

## Codes of upgrades

{families}

## Codes of commands

These happen to a person at a keyboard, not to a device.

{general}

## What answers which attack or fault

Rejected: nothing of it was installed; what ran goes on running, floors and running processes are as they
were, and the agent goes on listening.

{_answers(REJECTED)}

Alarm: the state is kept, and somebody is told.

{_answers(ALARMS)}
"""
