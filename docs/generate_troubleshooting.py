"""docs/troubleshooting.md: what people see first, what is behind it, and every code with its remedy."""

from collections.abc import Sequence

from docs.generate_codes import WARNING, table

from fleetfoot_protocol.codes import TABLE, Code, Family

_C = Code
#: (what somebody sees, what is behind it, what to do, the codes that say so)
BY_HAND: Sequence[tuple[str, str, str, tuple[Code, ...]]] = (
    (
        "There is no way to upgrade a device",
        "Either your role lacks the right in that group, or the device has no newer release it would "
        "take: it runs the newest, its channel or a pin excludes the others, or upgrades are switched "
        "off on it",
        "`fleetfoot device upgrades DEVICE` lists every release with the reason why not; `fleetfoot "
        "trust show` lists the roles",
        (_C.UPGRADE_DISABLED, _C.UPGRADE_CHANNEL_NOT_ALLOWED, _C.UPGRADE_PINNED, _C.UPGRADE_HOP_REQUIRED),
    ),
    (
        "A rollout waits and nobody was asked",
        "It needs an approval: rollouts over more than 100 devices do, and whatever the group's policy names",
        "`fleetfoot rollout show ROLLOUT` says that it awaits approval; somebody with the role "
        "approver gives it with `fleetfoot rollout approve`",
        (),
    ),
    (
        "The next batch does not start",
        "The wave before it is not through: a device is still on probation, offline within its "
        "timeout, or deferred; or the settle time is not over; or no device of the wave has "
        "succeeded; or it is paused or tripped and waits for a decision",
        "`fleetfoot rollout show ROLLOUT` names the devices that are waited for and the time until "
        "which; `fleetfoot rollout resume` or `decide` where it waits for you",
        (_C.UPGRADE_ON_HOLD, _C.UPGRADE_WINDOW_CLOSED, _C.UPGRADE_CONSENT_PENDING),
    ),
    (
        "The health check fails on every device",
        "The release or the check is wrong, not the devices: the new version listens elsewhere, needs "
        "longer than its window, or the check asks for something that only the old version had",
        "Read the component's log on one device (`fleetfoot-agent status` names it); correct the "
        "release, or `checks` and `window` of the component in agent.toml; then a new version, or "
        "`fleetfoot rollout retry`",
        (_C.UPGRADE_HEALTH_FAILED, _C.UPGRADE_BOOT_FAILED),
    ),
    (
        "The same few devices trip every rollout",
        "They flap: their disk, power, network or peripheral fails whatever the version is",
        "`fleetfoot device show DEVICE` on each of them: the last error is theirs, not the release's. "
        "Take them out with `exclude` until they are mended; do not raise the breaker for all",
        (_C.UPGRADE_IO_ERROR, _C.UPGRADE_DISK_FULL, _C.UPGRADE_DOWNLOAD_SLOW),
    ),
    (
        "Verification fails, on one device or on all of them",
        "What was published is not what was signed, or was signed by others than the trust root "
        "demands. That is the release pipeline or the way from it, never the host: a device refuses "
        "exactly what it should",
        "Do not touch the device, and do not copy files by hand. Run `fleetfoot release verify BUNDLE "
        "--root ROOT` where the release was built; build, sign and publish it anew",
        (
            _C.UPGRADE_SIGNATURE_INVALID,
            _C.UPGRADE_THRESHOLD_NOT_MET,
            _C.UPGRADE_CHECKSUM_MISMATCH,
            _C.UPGRADE_ARCHIVE_REFUSED,
            _C.UPGRADE_TREE_MISMATCH,
        ),
    ),
    (
        "A device refuses a tar.zst release",
        "It has no libzstd to unpack it with; nothing was fetched",
        "Install the library (Debian: `apt-get install libzstd1`), or build with `--format tar.gz`",
        (_C.UPGRADE_INCOMPATIBLE,),
    ),
    (
        "An alarm stands although everything runs",
        "Alarms stand until what they are about is healed: a fresh heartbeat, a higher sequence, an "
        "upgrade that proves itself",
        "`fleetfoot device show DEVICE` explains each alarm with its remedy",
        (_C.UPGRADE_STALE, _C.UPGRADE_EQUIVOCATION, _C.UPGRADE_JOURNAL_REBUILT, _C.UPGRADE_BOTH_BAD),
    ),
)


def _named(codes: tuple[Code, ...]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def _by_hand() -> str:
    rows = [(seen, why, do, _named(codes)) for seen, why, do, codes in BY_HAND]
    return table(("you see", "behind it", "what to do", "codes"), rows)


def _by_code(family: Family) -> str:
    rows = [(f"`{code}`", info.meaning, info.remedy) for code, info in TABLE.items() if info.family is family]
    return f"### {str(family).capitalize()}\n\n{table(('code', 'it means', 'what to do'), rows)}"


def troubleshooting_page() -> str:
    """The whole of docs/troubleshooting.md."""
    families = "\n\n".join(_by_code(family) for family in Family)
    return f"""{WARNING}

# When something does not go as it should

Every refusal and every alarm has a code, a cause and a remedy, and shows all three in the same words: in
`fleetfoot-agent status` on the device, in the event (`errorcode`, `data.message` or `data.reason`,
`data.remedy`), and in `fleetfoot device show DEVICE`.

## What people see first

{_by_hand()}

## By code

{families}
"""
