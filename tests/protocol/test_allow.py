"""Local policy and fit (contract section 4): which refusal, in which order, and what stops a return."""

from dataclasses import replace

import pytest
from tests.protocol import samples

from fleetfoot_protocol.allow import Environment, Permission, Rules, allow, find_artifact, needed_bytes
from fleetfoot_protocol.codes import Code, Family, info
from fleetfoot_protocol.documents import Artifact, Release
from fleetfoot_protocol.reports import Installed, Platform
from fleetfoot_protocol.resolve import Act, Plan, Why

AMD64, ARM64 = samples.RELEASE.artifacts
RULES = Rules(enabled=True)
LINUX = Platform(os="linux", arch="amd64", libc="glibc")
INSTALL, STAGE, RETURN = (
    Plan(Act.INSTALL, Why.ORDERED, samples.GOAL),
    Plan(Act.STAGE, Why.ORDERED, samples.GOAL),
    Plan(Act.RETURN, Why.RECALLED, samples.GOAL),
)


def running(version: str) -> Installed:
    return Installed(version=version, counter=1, digest=samples.digest(version))


HERE = Environment(platform=LINUX, agent="0.1.0", run=running("1.0.0"), free=10**10)


def release(**update: object) -> Release:
    return samples.RELEASE.model_copy(update=update)


def asked(
    plan: Plan = INSTALL,
    to: Release = samples.RELEASE,
    rules: Rules = RULES,
    here: Environment = HERE,
) -> Permission:
    return allow(plan, to, rules, here)


@pytest.mark.parametrize("plan", [INSTALL, STAGE, RETURN], ids=lambda p: str(p.act))
def test_what_nothing_forbids_proceeds_with_the_artifact_that_fits(plan: Plan) -> None:
    assert asked(plan) == Permission("proceed", artifact=AMD64)


# What brings a refusal about: changes of the release, of the rules, of the environment.
Trouble = tuple[dict[str, object], dict[str, object], dict[str, object]]
#: Every refusal in the order in which it is said: (name, code, trouble, whether it stops a RETURN too).
ORDER: list[tuple[str, Code, Trouble, bool]] = [
    ("disabled", Code.UPGRADE_DISABLED, ({}, {"enabled": False}, {}), True),
    (
        "no artifact",
        Code.UPGRADE_NO_MATCHING_ARTIFACT,
        ({}, {}, {"platform": Platform(os="linux", arch="riscv64")}),
        True,
    ),
    ("agent", Code.UPGRADE_AGENT_TOO_OLD, ({"min_agent": "0.2.0"}, {}, {}), True),
    ("channel", Code.UPGRADE_CHANNEL_NOT_ALLOWED, ({"channel": "beta"}, {}, {}), False),
    ("hop", Code.UPGRADE_HOP_REQUIRED, ({}, {}, {"run": running("3.0.0")}), False),
    ("pinned", Code.UPGRADE_PINNED, ({}, {"pins": {"kiosk": "1.0.0"}}, {}), True),
    ("min_version", Code.UPGRADE_VERSION_TOO_OLD, ({}, {"min_version": "1.2.0"}, {}), False),
    ("budget", Code.UPGRADE_BUDGET_EXCEEDED, ({}, {"budget": AMD64.length - 1}, {}), False),
    ("disk", Code.UPGRADE_DISK_FULL, ({}, {}, {"free": 1}), True),
    ("window", Code.UPGRADE_WINDOW_CLOSED, ({}, {}, {"window_open": False}), False),
    ("consent refused", Code.UPGRADE_CONSENT_REFUSED, ({}, {}, {"consent": "refuse"}), False),
    ("consent pending", Code.UPGRADE_CONSENT_PENDING, ({}, {}, {"consent": "defer"}), False),
    ("splay", Code.UPGRADE_SPLAY, ({}, {}, {"splay_over": False}), False),
]
NAMES = [name for name, *_ in ORDER]


def with_troubles(names: list[str], plan: Plan) -> Permission:
    """The answer where all of these troubles stand at once."""
    changes: tuple[dict[str, object], ...] = ({}, {}, {})
    # The earlier in the order last, so that of two troubles with the same setting the earlier one stands.
    for name, _, trouble, _ in reversed(ORDER):
        if name in names:
            for change, part in zip(changes, trouble, strict=True):
                change.update(part)
    return allow(plan, release(**changes[0]), replace(RULES, **changes[1]), replace(HERE, **changes[2]))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "code", "trouble", "stops"), ORDER, ids=NAMES)
def test_each_trouble_alone_is_answered_with_its_code(
    name: str, code: Code, trouble: Trouble, stops: bool
) -> None:
    for plan in (INSTALL, STAGE):
        found = with_troubles([name], plan)
        assert found.code is code
        assert found.reason
        deferred = info(code).family is Family.DEFERRED
        assert found.verdict == ("defer" if deferred else "reject")
        assert found.artifact is None


@pytest.mark.parametrize(("name", "code", "trouble", "stops"), ORDER, ids=NAMES)
def test_a_return_is_stopped_only_by_what_may_stop_it(
    name: str, code: Code, trouble: Trouble, stops: bool
) -> None:
    found = with_troubles([name], RETURN)
    assert (found.code is code) if stops else (found == Permission("proceed", artifact=AMD64))


@pytest.mark.parametrize("first", range(len(ORDER)), ids=NAMES)
def test_of_several_troubles_the_first_in_the_order_is_told(first: int) -> None:
    for plan, told in (
        (INSTALL, ORDER[first:]),
        (RETURN, [entry for entry in ORDER[first:] if entry[3]]),
    ):
        found = with_troubles(NAMES[first:], plan)
        assert found.code is (told[0][1] if told else None)


def test_upgrades_are_off_unless_the_owner_switched_them_on() -> None:
    assert asked(rules=Rules()).code is Code.UPGRADE_DISABLED


def test_a_pin_to_the_goal_itself_and_pins_of_others_stop_nothing() -> None:
    pins = {"kiosk": "1.1.0", "agent": "0.0.1"}
    assert asked(rules=replace(RULES, pins=pins)).verdict == "proceed"


ALLOWED = [
    (("stable",), {"stable"}),
    (("beta",), {"beta", "stable"}),
    (("dev",), {"dev", "beta", "stable"}),
    (("stable", "dev"), {"dev", "beta", "stable"}),
    ((), set()),
    (("nightly",), set()),
]


@pytest.mark.parametrize(("listed", "admitted"), ALLOWED, ids=lambda v: "-".join(sorted(v)) or "none")
def test_listing_a_channel_admits_the_calmer_ones(listed: tuple[str, ...], admitted: set[str]) -> None:
    rules = replace(RULES, allowed_channels=listed)
    found = {c for c in ("stable", "beta", "dev") if asked(to=release(channel=c), rules=rules).code is None}
    assert found == admitted


HOPS = [
    ("1.9.9", "2.0.0", None),
    ("1.9.9", "3.0.0-rc.1", "requires 2.x first"),
    ("1.0.0", "12.0.0", "requires 2.x first"),
    ("3.0.0", "1.0.0", "requires 2.x first"),
    ("2.0.0", "1.0.0", None),
    ("0.9.0", "1.0.0", None),
]


@pytest.mark.parametrize(("run", "to", "reason"), HOPS)
def test_one_major_version_is_crossed_at_a_time(run: str, to: str, reason: str | None) -> None:
    found = asked(to=release(version=to), here=replace(HERE, run=running(run)))
    assert (found.code, found.reason) == ((Code.UPGRADE_HOP_REQUIRED, reason) if reason else (None, ""))


def test_where_nothing_runs_every_major_version_is_the_first() -> None:
    assert asked(to=release(version="7.0.0"), here=replace(HERE, run=None)).verdict == "proceed"


@pytest.mark.parametrize(
    ("least", "good"), [("1.1.0", True), ("1.1.0-rc.1", True), ("1.1.1-rc.1", False), ("1.10.0", False)]
)
def test_min_version_is_compared_as_semver(least: str, good: bool) -> None:
    assert (asked(rules=replace(RULES, min_version=least)).code is None) is good


@pytest.mark.parametrize(("needs", "good"), [("0.1.0", True), ("0.1.0-rc.1", True), ("0.10.0", False)])
def test_min_agent_is_compared_as_semver(needs: str, good: bool) -> None:
    found = asked(to=release(min_agent=needs))
    assert (found.code is None) is good


def test_the_artifact_is_chosen_by_system_machine_library_and_hardware() -> None:
    bare = AMD64.model_copy(update={"libc": None, "sha256": samples.digest("bare")})
    musl = AMD64.model_copy(update={"libc": "musl", "sha256": samples.digest("musl")})

    def found(*artifacts: Artifact, **platform: str) -> Artifact | Permission:
        here = Platform(os="linux", arch="amd64", **platform)
        return find_artifact(release(artifacts=artifacts), here)

    assert found(musl, AMD64, ARM64, libc="glibc") == AMD64
    assert found(musl, AMD64, libc="musl") == musl
    assert found(musl, bare) == bare
    refused = found(musl, AMD64)
    assert isinstance(refused, Permission)
    assert refused.code is Code.UPGRADE_NO_MATCHING_ARTIFACT
    assert refused.reason == "no matching release artifact for agent platform linux/amd64"


def test_an_artifact_bound_to_another_abi_does_not_fit_and_an_unknown_abi_is_not_judged() -> None:
    bound = AMD64.model_copy(update={"libc": None, "abi": "cp311"})
    one, here = release(artifacts=(bound,)), Platform(os="linux", arch="amd64")
    assert find_artifact(one, here) == bound
    assert find_artifact(one, here, frozenset({"cp311"})) == bound
    refused = find_artifact(one, here, frozenset({"cp313"}))
    assert isinstance(refused, Permission)
    assert refused.code is Code.UPGRADE_NO_MATCHING_ARTIFACT


def test_hardware_that_is_not_listed_is_incompatible() -> None:
    def found(hw: str) -> Artifact | Permission:
        return find_artifact(samples.RELEASE, Platform(os="linux", arch="arm64", hw=hw))

    assert found("rpi5") == ARM64
    for hw in ("rpi3", ""):
        refused = found(hw)
        assert isinstance(refused, Permission)
        assert refused.code is Code.UPGRADE_INCOMPATIBLE


def test_the_disk_must_hold_blob_index_tree_and_reserve() -> None:
    needed = needed_bytes(AMD64, staged=False)
    assert needed == AMD64.length + 32 * 3 + AMD64.unpacked_size
    rules = replace(RULES, disk_reserve=1000)
    assert asked(rules=rules, here=replace(HERE, free=needed + 1000)).verdict == "proceed"
    short = asked(rules=rules, here=replace(HERE, free=needed + 999))
    assert short.code is Code.UPGRADE_DISK_FULL
    assert str(needed + 1000) in short.reason


def test_what_is_staged_needs_the_reserve_only() -> None:
    rules = replace(RULES, disk_reserve=1000)
    staged = replace(HERE, staged=True, free=1000)
    assert asked(rules=rules, here=staged).verdict == "proceed"
    assert asked(rules=rules, here=replace(staged, free=999)).code is Code.UPGRADE_DISK_FULL


def test_consent_that_is_given_stops_nothing() -> None:
    assert asked(here=replace(HERE, consent="accept")).verdict == "proceed"
