"""The words of the contract: codes, errors, events, states, badges, and who may do what."""

import re

import pytest

from fleetfoot_protocol import codes, errors, events, platforms, states
from fleetfoot_protocol.codes import Code, Family, Severity
from fleetfoot_protocol.errors import FleetfootError, FormError, TrustError, UpgradeError
from fleetfoot_protocol.events import Event, cloud_event
from fleetfoot_protocol.states import Lifecycle, Outcome, Right, Role, RolloutState, Terminal

WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@pytest.mark.parametrize("code", Code)
def test_every_code_has_family_severity_meaning_and_remedy(code: Code) -> None:
    told = codes.info(code)
    assert isinstance(told.family, Family)
    assert isinstance(told.severity, Severity)
    for text in (told.meaning, told.remedy):
        assert text.strip() == text
        assert len(text) >= 4
        assert "|" not in text, "it stands in a table of the documentation"
        assert not text.endswith(".")
    assert told.meaning != told.remedy


def test_the_table_holds_every_code_once_in_order() -> None:
    assert list(codes.TABLE) == list(Code)
    assert len({info.meaning for info in codes.TABLE.values()}) == len(Code)
    assert {info.family for info in codes.TABLE.values()} == set(Family)


@pytest.mark.parametrize("code", Code)
def test_codes_are_lower_case_words_named_as_they_are_written(code: Code) -> None:
    assert WORD.fullmatch(code)
    assert code.startswith("upgrade_")
    assert code.name == code.upper()


def test_what_is_deferred_is_no_failure() -> None:
    calm = {code for code, info in codes.TABLE.items() if info.family is Family.DEFERRED}
    assert {codes.info(code).severity for code in calm} == {Severity.INFO}


def test_what_needs_an_act_now_is_critical() -> None:
    critical = {code for code, info in codes.TABLE.items() if info.severity is Severity.CRITICAL}
    assert critical == {Code.UPGRADE_ROLLED_BACK, Code.UPGRADE_BOTH_BAD, Code.UPGRADE_NO_WAY_BACK}


@pytest.mark.parametrize("code", Code)
def test_an_upgrade_error_carries_the_remedy_of_its_code(code: Code) -> None:
    for kind in (UpgradeError, TrustError, FormError):
        error = kind(code, "why")
        assert isinstance(error, FleetfootError)
        assert (error.upgrade_code, error.code, error.message) == (code, str(code), "why")
        assert error.remedy == codes.info(code).remedy
        assert str(error) == f"why ({code})"


@pytest.mark.parametrize("code", errors.GENERAL_REMEDIES)
def test_a_general_error_carries_the_remedy_of_its_code(code: str) -> None:
    assert WORD.fullmatch(code)
    assert code not in set(Code)
    assert FleetfootError(code, "why").remedy == errors.GENERAL_REMEDIES[code] != ""


def test_an_error_may_bring_a_remedy_of_its_own() -> None:
    assert FleetfootError("usage", "why", remedy="do this").remedy == "do this"
    assert UpgradeError(Code.UPGRADE_EXPIRED, "why", remedy="do that").remedy == "do that"


def test_a_code_that_nobody_knows_cannot_be_raised() -> None:
    with pytest.raises(ValueError, match="is not a valid Code"):
        FleetfootError("no_such_code", "why")


# -- events


@pytest.mark.parametrize("event", Event)
def test_an_event_is_a_cloud_event_in_structured_form(event: Event) -> None:
    made = cloud_event(
        event,
        source="/groups/north/devices/dev-001",
        event_id="k3f9-17",
        time="2026-01-31T12:00:00Z",
        data={"version": "1.1.0"},
        component="kiosk",
        rollout="r-0001",
        code=Code.UPGRADE_HEALTH_FAILED,
    )
    assert made["specversion"] == "1.0"
    assert made["type"] == f"dev.fleetfoot.{event}"
    assert (made["category"], made["component"], made["rollout"]) == ("upgrade", "kiosk", "r-0001")
    assert (made["errorcode"], made["severity"]) == ("upgrade_health_failed", "error")
    known = codes.info(Code.UPGRADE_HEALTH_FAILED)
    told = {"error_code": "upgrade_health_failed", "message": known.meaning, "remedy": known.remedy}
    assert made["data"] == {"version": "1.1.0", **told}
    # CloudEvents 1.0.2, section 3.1: attribute names are lower-case letters and digits, values never empty.
    assert [name for name in made if not re.fullmatch(r"[a-z0-9]{1,20}", name)] == []
    assert all(made.values())


def test_an_event_without_a_failure_has_no_error_code() -> None:
    data = {"version": "1.1.0"}
    made = cloud_event(
        Event.UPGRADE_STARTED, source="/x", event_id="1", time="2026-01-31T12:00:00Z", data=data
    )
    assert set(made) == {
        *("specversion", "id", "source", "type", "time", "datacontenttype", "category", "severity", "data")
    }
    assert made["severity"] == "info"
    assert made["data"] == data
    assert made["data"] is not data


def test_the_data_of_an_event_keep_a_remedy_of_their_own_and_are_not_changed() -> None:
    data = {"remedy": "mine"}
    made = cloud_event(
        Event.ALARM,
        source="/x",
        event_id="1",
        time="2026-01-31T12:00:00Z",
        data=data,
        code=Code.UPGRADE_STALE,
    )
    assert made["data"]["remedy"] == "mine"
    assert data == {"remedy": "mine"}


SEVERITIES = {
    Event.UPGRADE_ROLLED_BACK: Severity.CRITICAL,
    Event.UPGRADE_ROLLBACK_FAILED: Severity.CRITICAL,
    Event.CIRCUIT_BREAKER_TRIPPED: Severity.CRITICAL,
    Event.ALARM: Severity.ERROR,
    Event.UPGRADE_REJECTED: Severity.WARNING,
}


@pytest.mark.parametrize("event", Event)
def test_an_event_is_as_loud_as_its_code_or_else_as_itself(event: Event) -> None:
    assert events.severity_of(event, None) is SEVERITIES.get(event, Severity.INFO)
    for code in Code:
        assert events.severity_of(event, code) is codes.info(code).severity


# -- states


@pytest.mark.parametrize("state", [*Lifecycle, *Outcome, *Terminal])
def test_every_state_of_a_device_has_a_badge_that_needs_no_colour(state: str) -> None:
    badge = states.BADGES[state]
    assert len(badge.glyph) == 1
    assert badge.word
    assert badge.colour


def test_badges_of_one_word_look_alike_and_of_other_words_differ_in_glyph_or_word() -> None:
    by_word = {badge.word: badge for badge in states.BADGES.values()}
    assert set(by_word.values()) == set(states.BADGES.values())


# The table of states of the vocabulary: lifecycle or outcome -> what people read.
SHOWN = {
    "waiting": "waiting",
    "downloading": "upgrading",
    "verifying": "upgrading",
    "staging": "upgrading",
    "activating": "upgrading",
    "probation": "upgrading",
    "staged": "staged",
    "rolling_back": "rolling back",
    "completed": "updated",
    "healthy": "updated",
    "rolled_back": "rolled back",
    "failed": "upgrade failed",
    "rejected": "upgrade failed",
    "silent": "silent",
}


@pytest.mark.parametrize(("state", "word"), SHOWN.items())
def test_states_are_shown_in_the_words_of_the_vocabulary(state: str, word: str) -> None:
    assert states.BADGES[state].word == word


def test_a_device_has_ended_unless_it_is_pending_or_active() -> None:
    assert {state for state in Terminal if not state.ended} == {Terminal.PENDING, Terminal.ACTIVE}


def test_a_rollout_has_ended_in_six_states() -> None:
    ended = {state for state in RolloutState if state.ended}
    assert ended == {"completed", "rolled_back", "aborted", "canceled", "expired", "superseded"}


# -- roles, cell by cell

_ROLES = (Role.VIEWER, Role.OPERATOR, Role.GROUP_ADMIN, Role.APPROVER, Role.RELEASE_MANAGER, Role.ADMIN)
_TABLE = {
    #                  viewer operator group-admin approver release-manager admin
    Right.READ: "x x x x x x",
    Right.DEVICE_ACT: ". x x . . x",
    Right.FREEZE: ". x x x x x",
    Right.PLAN: ". x x x x x",
    Right.STEER: ". . x . . x",
    Right.APPROVE: ". . . x . x",
    Right.RELEASE: ". . . . x x",
    Right.ADMINISTER: ". . . . . x",
}
CELLS = [
    (right, role, cell == "x")
    for right, row in _TABLE.items()
    for role, cell in zip(_ROLES, row.split(), strict=True)
]


@pytest.mark.parametrize(("right", "role", "permitted"), CELLS, ids=lambda v: str(v))
def test_a_role_permits_exactly_what_its_cell_says(right: Right, role: Role, permitted: bool) -> None:
    assert (role in states.RIGHTS[right]) is permitted


def test_the_table_of_roles_has_a_row_for_every_right_and_a_column_for_every_role() -> None:
    assert set(_TABLE) == set(Right) == set(states.RIGHTS)
    assert set(_ROLES) == set(Role)
    assert len(CELLS) == 48


# -- platforms

MACHINES = {
    "x86_64": "amd64",
    "AMD64": "amd64",
    " i686 ": "386",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "armv7",
    "armv8l": "armv7",
    "armv6l": "armv6",
    "riscv64": "riscv64",
    "PPC64LE": "ppc64le",
}


@pytest.mark.parametrize(("machine", "word"), MACHINES.items())
def test_machines_are_named_in_one_way(machine: str, word: str) -> None:
    assert platforms.normalise_machine(machine) == word
    assert platforms.normalise_machine(word) == word


def test_systems_are_named_in_one_way() -> None:
    assert [platforms.normalise_system(name) for name in ("Linux", "Darwin\n")] == ["linux", "darwin"]
