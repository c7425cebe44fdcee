"""Whether the device permits a plan: local policy and fit, after `resolve`, never inside it (section 4).

Local policy outranks the device document, which outranks the group. Pure: the caller measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fleetfoot_protocol import versions
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Artifact, Release
from fleetfoot_protocol.fields import CHANNELS_ADMITTED
from fleetfoot_protocol.reports import Installed, Platform
from fleetfoot_protocol.resolve import Act, Plan


@dataclass(frozen=True, slots=True)
class Rules:
    """Local policy as the owner of the device set it. pins: component -> version.

    disk_reserve: bytes that stay free; budget: bytes that one artifact may have, None for any.
    """

    enabled: bool = False
    allowed_channels: tuple[str, ...] = ("stable",)
    min_version: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    disk_reserve: int = 0
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """What is the case on the device now.

    free: bytes free where the component is installed; staged: whether the release already lies unpacked;
    window_open, splay_over: whether the owner's maintenance window is open and the waiting time over (true
    where there is none); consent: the owner's answer (`accept` where nobody is asked); formats: what can be
    unpacked here, None where nobody has looked; abis: binary interfaces there are here, likewise.
    """

    platform: Platform
    agent: str
    run: Installed | None
    free: int
    staged: bool = False
    window_open: bool = True
    consent: Literal["accept", "refuse", "defer"] = "accept"
    splay_over: bool = True
    formats: frozenset[str] | None = None
    abis: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Permission:
    """The answer. `code` is None for proceed; `artifact` is the one that fits, where one was looked for."""

    verdict: Literal["proceed", "defer", "reject"]
    code: Code | None = None
    reason: str = ""
    artifact: Artifact | None = None


def _reject(code: Code, reason: str) -> Permission:
    return Permission("reject", code, reason)


def find_artifact(
    release: Release, platform: Platform, abis: frozenset[str] | None = None
) -> Artifact | Permission:
    """The artifact for this platform, or the rejection: none for os/arch, or none for this hardware.

    abis: what artifacts may be bound to beside the C library, as `cp311`; None where nobody can say.
    """
    fit = [a for a in release.artifacts if (a.os, a.arch) == (platform.os, platform.arch)]
    fit = [a for a in fit if a.libc is None or a.libc == platform.libc]
    if abis is not None:
        fit = [a for a in fit if a.abi is None or a.abi in abis]
    if not fit:
        return _reject(
            Code.UPGRADE_NO_MATCHING_ARTIFACT,
            f"no matching release artifact for agent platform {platform.os}/{platform.arch}",
        )
    for artifact in fit:
        if not artifact.hw or platform.hw in artifact.hw:
            return artifact
    return _reject(Code.UPGRADE_INCOMPATIBLE, f"no artifact for hardware {platform.hw!a}")


def needed_bytes(artifact: Artifact, *, staged: bool) -> int:
    """Bytes of disk that installing takes: blob, index and unpacked tree; none once it is staged."""
    return 0 if staged else artifact.length + artifact.index_length + artifact.unpacked_size


def _pinned(component: str, goal_version: str, rules: Rules) -> Permission | None:
    pin = rules.pins.get(component)
    if pin is not None and pin != goal_version:
        return _reject(Code.UPGRADE_PINNED, f"{component} is pinned to {pin} on this device")
    return None


def _suits(release: Release, rules: Rules, environment: Environment) -> Permission | None:
    admitted = {c for listed in rules.allowed_channels for c in CHANNELS_ADMITTED.get(listed, ())}
    if release.channel not in admitted:
        return _reject(
            Code.UPGRADE_CHANNEL_NOT_ALLOWED,
            f"channel {release.channel} is not allowed here (allowed: {', '.join(rules.allowed_channels)})",
        )
    run = environment.run
    if run is not None:
        hop = versions.major(release.version) - versions.major(run.version)
        if abs(hop) > 1:
            through = versions.major(run.version) + (1 if hop > 0 else -1)
            return _reject(Code.UPGRADE_HOP_REQUIRED, f"requires {through}.x first")
    return None


def _too_old(release: Release, rules: Rules) -> Permission | None:
    if rules.min_version is not None and versions.key(release.version) < versions.key(rules.min_version):
        return _reject(
            Code.UPGRADE_VERSION_TOO_OLD, f"{release.version} is older than min_version {rules.min_version}"
        )
    return None


def _too_large(artifact: Artifact, rules: Rules) -> Permission | None:
    if rules.budget is not None and artifact.length > rules.budget:
        text = f"the artifact has {artifact.length} bytes, the budget for a download is {rules.budget}"
        return _reject(Code.UPGRADE_BUDGET_EXCEEDED, text)
    return None


def _now(environment: Environment) -> Permission | None:
    if not environment.window_open:
        return Permission("defer", Code.UPGRADE_WINDOW_CLOSED, "outside the maintenance window")
    if environment.consent == "refuse":
        return _reject(Code.UPGRADE_CONSENT_REFUSED, "the owner refused")
    if environment.consent == "defer":
        return Permission("defer", Code.UPGRADE_CONSENT_PENDING, "the owner has not agreed yet")
    if not environment.splay_over:
        return Permission("defer", Code.UPGRADE_SPLAY, "waiting its turn")
    return None


def allow(plan: Plan, release: Release, rules: Rules, environment: Environment) -> Permission:
    """Whether to proceed with a plan that INSTALLs, STAGEs or RETURNs to `release`.

    In this order: enabled; platform, format, agent; channel, hop, pin, min_version; budget, disk; window,
    consent, splay. A RETURN is stopped only by `enabled = false`, a platform that does not fit, a format
    that cannot be unpacked, a `min_agent` beyond this agent, a pin and a full disk.
    """
    if not rules.enabled:
        return _reject(Code.UPGRADE_DISABLED, "upgrades are disabled on this device")
    artifact = find_artifact(release, environment.platform, environment.abis)
    if isinstance(artifact, Permission):
        return artifact
    formats = environment.formats
    if formats is not None and artifact.format not in formats and not environment.staged:
        known = ", ".join(sorted(formats))
        return _reject(
            Code.UPGRADE_INCOMPATIBLE, f"this device cannot unpack {artifact.format}, only {known}"
        )
    if versions.key(release.min_agent) > versions.key(environment.agent):
        return _reject(
            Code.UPGRADE_AGENT_TOO_OLD, f"needs agent {release.min_agent}, this is {environment.agent}"
        )
    returning = plan.act is Act.RETURN
    refusal = (
        (None if returning else _suits(release, rules, environment))
        or _pinned(release.component, release.version, rules)
        or (None if returning else _too_old(release, rules))
        or (None if returning or environment.staged else _too_large(artifact, rules))
    )
    if refusal:
        return refusal
    needed = needed_bytes(artifact, staged=environment.staged) + rules.disk_reserve
    if environment.free < needed:
        return _reject(Code.UPGRADE_DISK_FULL, f"needs {needed} bytes free, there are {environment.free}")
    if not returning and (later := _now(environment)):
        return later
    return Permission("proceed", artifact=artifact)
