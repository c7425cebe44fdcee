"""Every upgrade error code with its family, severity, meaning and remedy, in one table.

Documentation, console, command line, events and status take them from here. Standard library only.
"""

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How loud a code is: `info` needs nobody, `warning` a look, `error` an act, `critical` an act now."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class Family(StrEnum):
    """Which part of the course of an upgrade a code belongs to."""

    POLICY = "local policy"
    DEFERRED = "deferred"
    TRUST = "trust"
    FORM = "form"
    FIT = "fit"
    TRANSFER = "transfer"
    DISK = "disk"
    ACTIVATION = "activation"
    COURSE = "course"


class Code(StrEnum):
    """The stable strings that stand in events and status as ``error_code``."""

    UPGRADE_DISABLED = "upgrade_disabled"
    UPGRADE_CHANNEL_NOT_ALLOWED = "upgrade_channel_not_allowed"
    UPGRADE_VERSION_TOO_OLD = "upgrade_version_too_old"
    UPGRADE_PINNED = "upgrade_pinned"
    UPGRADE_HOP_REQUIRED = "upgrade_hop_required"
    UPGRADE_DOWNGRADE_REFUSED = "upgrade_downgrade_refused"
    UPGRADE_BELOW_FLOOR = "upgrade_below_floor"
    UPGRADE_REFUSED_BEFORE = "upgrade_refused_before"
    UPGRADE_CONSENT_REFUSED = "upgrade_consent_refused"
    UPGRADE_BUDGET_EXCEEDED = "upgrade_budget_exceeded"
    UPGRADE_ON_HOLD = "upgrade_on_hold"
    UPGRADE_WINDOW_CLOSED = "upgrade_window_closed"
    UPGRADE_CONSENT_PENDING = "upgrade_consent_pending"
    UPGRADE_SPLAY = "upgrade_splay"
    UPGRADE_LOCKED = "upgrade_locked"
    UPGRADE_SIGNATURE_INVALID = "upgrade_signature_invalid"
    UPGRADE_IDENTITY_NOT_ALLOWED = "upgrade_identity_not_allowed"
    UPGRADE_THRESHOLD_NOT_MET = "upgrade_threshold_not_met"
    UPGRADE_EXPIRED = "upgrade_expired"
    UPGRADE_SCOPE_MISMATCH = "upgrade_scope_mismatch"
    UPGRADE_TYPE_MISMATCH = "upgrade_type_mismatch"
    UPGRADE_SEQUENCE_REPLAYED = "upgrade_sequence_replayed"
    UPGRADE_EQUIVOCATION = "upgrade_equivocation"
    UPGRADE_RELEASE_MISMATCH = "upgrade_release_mismatch"
    UPGRADE_ROOT_REFUSED = "upgrade_root_refused"
    UPGRADE_STALE = "upgrade_stale"
    UPGRADE_MALFORMED = "upgrade_malformed"
    UPGRADE_TOO_LARGE = "upgrade_too_large"
    UPGRADE_SPEC_UNSUPPORTED = "upgrade_spec_unsupported"
    UPGRADE_NO_MATCHING_ARTIFACT = "upgrade_no_matching_artifact"
    UPGRADE_INCOMPATIBLE = "upgrade_incompatible"
    UPGRADE_AGENT_TOO_OLD = "upgrade_agent_too_old"
    UPGRADE_DOWNLOAD_FAILED = "upgrade_download_failed"
    UPGRADE_DOWNLOAD_SLOW = "upgrade_download_slow"
    UPGRADE_URL_REFUSED = "upgrade_url_refused"
    UPGRADE_TLS_FAILED = "upgrade_tls_failed"
    UPGRADE_LENGTH_MISMATCH = "upgrade_length_mismatch"
    UPGRADE_CHECKSUM_MISMATCH = "upgrade_checksum_mismatch"
    UPGRADE_DISK_FULL = "upgrade_disk_full"
    UPGRADE_READ_ONLY = "upgrade_read_only"
    UPGRADE_IO_ERROR = "upgrade_io_error"
    UPGRADE_ARCHIVE_REFUSED = "upgrade_archive_refused"
    UPGRADE_TREE_MISMATCH = "upgrade_tree_mismatch"
    UPGRADE_LAYOUT_REFUSED = "upgrade_layout_refused"
    UPGRADE_JOURNAL_REBUILT = "upgrade_journal_rebuilt"
    UPGRADE_HOOK_FAILED = "upgrade_hook_failed"
    UPGRADE_BOOT_FAILED = "upgrade_boot_failed"
    UPGRADE_HEALTH_FAILED = "upgrade_health_failed"
    UPGRADE_ROLLED_BACK = "upgrade_rolled_back"
    UPGRADE_BOTH_BAD = "upgrade_both_bad"
    UPGRADE_SUPERSEDED = "upgrade_superseded"
    UPGRADE_CANCELED = "upgrade_canceled"
    UPGRADE_NO_WAY_BACK = "upgrade_no_way_back"
    UPGRADE_INTERNAL = "upgrade_internal"


class CodeInfo(NamedTuple):
    """What a code means and what a person can do about it."""

    family: Family
    severity: Severity
    meaning: str
    remedy: str


_P, _W, _T, _F = Family.POLICY, Family.DEFERRED, Family.TRUST, Family.FORM
_FIT, _X, _D, _A, _C = Family.FIT, Family.TRANSFER, Family.DISK, Family.ACTIVATION, Family.COURSE
_I, _WARN, _E, _CRIT = Severity.INFO, Severity.WARNING, Severity.ERROR, Severity.CRITICAL

TABLE: dict[Code, CodeInfo] = {
    Code.UPGRADE_DISABLED: CodeInfo(
        _P, _WARN, "upgrades are switched off on this device", "set upgrade.enabled = true in agent.toml"
    ),
    Code.UPGRADE_CHANNEL_NOT_ALLOWED: CodeInfo(
        _P,
        _WARN,
        "the release's channel is not among the device's allowed channels",
        "promote the release to an allowed channel, or widen upgrade.allowed_channels on the device",
    ),
    Code.UPGRADE_VERSION_TOO_OLD: CodeInfo(
        _P,
        _WARN,
        "the release is older than the device's min_version",
        "choose a newer release, or lower upgrade.min_version on the device",
    ),
    Code.UPGRADE_PINNED: CodeInfo(
        _P,
        _WARN,
        "the component is pinned to a version on the device",
        "remove the pin in agent.toml when the device may move again",
    ),
    Code.UPGRADE_HOP_REQUIRED: CodeInfo(
        _P,
        _WARN,
        "more than one major version would be crossed at once",
        "go by way of a release of the major version in between",
    ),
    Code.UPGRADE_DOWNGRADE_REFUSED: CodeInfo(
        _P,
        _WARN,
        "the release is older than what runs and going down was not permitted",
        "permit going down: 'fleetfoot device downgrade', or 'fleetfoot rollout plan' with --exactly",
    ),
    Code.UPGRADE_BELOW_FLOOR: CodeInfo(
        _P,
        _E,
        "the release's counter is below the security floor of the device",
        "choose a release at or above the floor; a floor is never lowered",
    ),
    Code.UPGRADE_REFUSED_BEFORE: CodeInfo(
        _P,
        _WARN,
        "this very release failed on this device before and is not tried again",
        "publish a corrected release, or order another attempt with 'rollout retry'",
    ),
    Code.UPGRADE_CONSENT_REFUSED: CodeInfo(
        _P, _WARN, "the device's owner refused the upgrade", "talk to the owner of the device"
    ),
    Code.UPGRADE_BUDGET_EXCEEDED: CodeInfo(
        _P,
        _WARN,
        "the artifact is larger than the device's budget for downloads",
        "raise the budget on the device or ship a smaller artifact",
    ),
    Code.UPGRADE_ON_HOLD: CodeInfo(
        _W, _I, "the rollout is paused or tripped", "resume the rollout or decide about it"
    ),
    Code.UPGRADE_WINDOW_CLOSED: CodeInfo(
        _W, _I, "the device is outside its maintenance window", "wait for the window"
    ),
    Code.UPGRADE_CONSENT_PENDING: CodeInfo(
        _W,
        _I,
        "the device's owner has not agreed yet",
        "the owner answers on the device, 'fleetfoot-agent consent accept COMPONENT'",
    ),
    Code.UPGRADE_SPLAY: CodeInfo(
        _W, _I, "the device waits a random time so that the fleet does not act at once", "wait"
    ),
    Code.UPGRADE_LOCKED: CodeInfo(
        _W, _I, "another component or another agent is being worked on", "wait until that work has ended"
    ),
    Code.UPGRADE_SIGNATURE_INVALID: CodeInfo(
        _T,
        _E,
        "no valid signature of a key that may sign this document",
        "check the signing pipeline and who can write to the broker: the host itself is not at fault",
    ),
    Code.UPGRADE_IDENTITY_NOT_ALLOWED: CodeInfo(
        _T,
        _E,
        "validly signed by a key that has no right to sign this kind of document",
        "sign with a key of the right role, or add the key to that role in the trust root",
    ),
    Code.UPGRADE_THRESHOLD_NOT_MET: CodeInfo(
        _T,
        _E,
        "fewer distinct keys signed than the trust root demands",
        "have the missing key holders sign",
    ),
    Code.UPGRADE_EXPIRED: CodeInfo(
        _T, _E, "the document is past its expiry", "check that the manager runs and renews its documents"
    ),
    Code.UPGRADE_SCOPE_MISMATCH: CodeInfo(
        _T,
        _E,
        "the document is signed for another fleet, group, device or component",
        "check who writes to the topic it arrived on",
    ),
    Code.UPGRADE_TYPE_MISMATCH: CodeInfo(
        _T, _E, "the signed document is of another type than expected", "check who writes to the topic"
    ),
    Code.UPGRADE_SEQUENCE_REPLAYED: CodeInfo(
        _T,
        _WARN,
        "an older document than the newest one seen arrived",
        "normal after a broker restart; if it persists, check who writes to the topic",
    ),
    Code.UPGRADE_EQUIVOCATION: CodeInfo(
        _T,
        _E,
        "two different documents carry the same sequence",
        "check that only one manager uses the director key; any newer document heals it",
    ),
    Code.UPGRADE_RELEASE_MISMATCH: CodeInfo(
        _T,
        _E,
        "the release manifest is not the one that the desired state names",
        "publish the release again from its signed bundle",
    ),
    Code.UPGRADE_ROOT_REFUSED: CodeInfo(
        _T,
        _E,
        "a trust root is not properly chained to the one the device has",
        "publish every version of the root, each signed by the thresholds of its predecessor and its own",
    ),
    Code.UPGRADE_STALE: CodeInfo(
        _T,
        _WARN,
        "no fresh heartbeat: somebody may be withholding messages",
        "check the manager and the path from it to the device",
    ),
    Code.UPGRADE_MALFORMED: CodeInfo(
        _F, _E, "the document does not have the form of the contract", "check what wrote it and its version"
    ),
    Code.UPGRADE_TOO_LARGE: CodeInfo(_F, _E, "the document is larger than allowed", "split or shorten it"),
    Code.UPGRADE_SPEC_UNSUPPORTED: CodeInfo(
        _F,
        _E,
        "the document follows a newer specification than this agent understands",
        "upgrade the agent on the device first",
    ),
    Code.UPGRADE_NO_MATCHING_ARTIFACT: CodeInfo(
        _FIT,
        _E,
        "no matching release artifact for agent platform",
        "build the release for this platform too, or leave the device out of the rollout",
    ),
    Code.UPGRADE_INCOMPATIBLE: CodeInfo(
        _FIT, _E, "the release does not fit this device's hardware", "choose a release for this hardware"
    ),
    Code.UPGRADE_AGENT_TOO_OLD: CodeInfo(
        _FIT, _E, "the release needs a newer agent", "upgrade the agent on the device first"
    ),
    Code.UPGRADE_DOWNLOAD_FAILED: CodeInfo(
        _X,
        _E,
        "the artifact could not be fetched from any source",
        "check the artifact server, its address in the desired state and the device's network",
    ),
    Code.UPGRADE_DOWNLOAD_SLOW: CodeInfo(
        _X, _E, "the download fell below the slowest speed allowed", "check the link and the artifact server"
    ),
    Code.UPGRADE_URL_REFUSED: CodeInfo(
        _X, _E, "a source or a redirect leads where downloads may not go", "correct the release's sources"
    ),
    Code.UPGRADE_TLS_FAILED: CodeInfo(
        _X,
        _E,
        "the artifact server's certificate was not accepted",
        "check certificate, host name and CA file",
    ),
    Code.UPGRADE_LENGTH_MISMATCH: CodeInfo(
        _X, _E, "the artifact has another length than signed", "upload the artifact again from its bundle"
    ),
    Code.UPGRADE_CHECKSUM_MISMATCH: CodeInfo(
        _X,
        _E,
        "bytes of the artifact differ from what was signed",
        "upload the artifact again from its bundle; check the source for tampering",
    ),
    Code.UPGRADE_DISK_FULL: CodeInfo(
        _D, _E, "not enough free space or inodes on the device", "free space on the device"
    ),
    Code.UPGRADE_READ_ONLY: CodeInfo(
        _D, _E, "the file system is read-only", "check the disk: read-only often means it is failing"
    ),
    Code.UPGRADE_IO_ERROR: CodeInfo(_D, _E, "the disk reported an error", "check the disk and replace it"),
    Code.UPGRADE_ARCHIVE_REFUSED: CodeInfo(
        _D,
        _E,
        "the archive holds something that is not allowed or is damaged",
        "build the release with 'fleetfoot release build'",
    ),
    Code.UPGRADE_TREE_MISMATCH: CodeInfo(
        _D,
        _E,
        "the extracted tree differs from the signed one, or an installed one was changed",
        "installed: see which with 'fleetfoot-agent verify', go back, and install the release again;"
        " extracted: publish it again, and check the disk if others install it well",
    ),
    Code.UPGRADE_LAYOUT_REFUSED: CodeInfo(
        _D,
        _E,
        "the install folder does not look as the agent left it",
        "look at 'current' and 'versions' by hand; nothing was deleted",
    ),
    Code.UPGRADE_JOURNAL_REBUILT: CodeInfo(
        _D,
        _WARN,
        "the journal was unreadable and was rebuilt from disk",
        "check the disk and its power supply",
    ),
    Code.UPGRADE_HOOK_FAILED: CodeInfo(
        _A, _E, "a hook of the device's owner failed", "look at the hook's log"
    ),
    Code.UPGRADE_BOOT_FAILED: CodeInfo(
        _A,
        _E,
        "the new version did not stay up after it was started",
        "read the component's log on the device and publish a corrected release",
    ),
    Code.UPGRADE_HEALTH_FAILED: CodeInfo(
        _A,
        _E,
        "the new version ran but its health checks did not pass in time",
        "read the component's log and the check's answer, and publish a corrected release",
    ),
    Code.UPGRADE_ROLLED_BACK: CodeInfo(
        _A,
        _CRIT,
        "the device went back to its previous version",
        "find the cause in the error before it, and publish a corrected release",
    ),
    Code.UPGRADE_BOTH_BAD: CodeInfo(
        _A,
        _CRIT,
        "neither the new nor the previous version proves healthy",
        "look at the device's surroundings: configuration, network, disk; then order any good release",
    ),
    Code.UPGRADE_SUPERSEDED: CodeInfo(_C, _I, "a newer order replaced this one", "nothing to do"),
    Code.UPGRADE_CANCELED: CodeInfo(
        _C, _I, "the rollout was canceled before the device began", "nothing to do"
    ),
    Code.UPGRADE_NO_WAY_BACK: CodeInfo(
        _C,
        _CRIT,
        "what runs was withdrawn and no permitted version to return to exists",
        "order a good release for this device",
    ),
    Code.UPGRADE_INTERNAL: CodeInfo(
        _C, _E, "the agent met an error it did not expect", "keep the device's log and report it as a defect"
    ),
}


def info(code: Code) -> CodeInfo:
    """Family, severity, meaning and remedy of `code`."""
    return TABLE[code]
