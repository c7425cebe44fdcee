"""What adopting adds to a unit and which units it refuses, from what systemd says about them."""

from dataclasses import replace
from pathlib import Path

import pytest

from fleetfoot_agent import config as configuration
from fleetfoot_agent.adopt import auxiliary, dropin
from fleetfoot_agent.components import Component, Hook
from fleetfoot_agent.settings import ConfigError
from fleetfoot_protocol.errors import FleetfootError

TOML = """\
[agent]
device = "dev-001"
group = "g-one"
[broker]
url = "mqtt://127.0.0.1"
[components.kiosk]
max_boot_attempts = 3
"""

#: What systemd says of a plain service that runs the component.
PLAIN = {
    "Id": "kiosk.service",
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "Transient": "no",
    "Type": "notify",
    "BusName": "",
    "PIDFile": "",
    "RemainAfterExit": "no",
    "RootDirectory": "",
    "RootImage": "",
    "RefuseManualStart": "no",
    "RefuseManualStop": "no",
    "ExecStart": "{ path=/opt/fleetfoot/kiosk/current/bin/kiosk ; argv[]=kiosk }",
    "WorkingDirectory": "",
    "Restart": "no",
    "RestartUSec": "100ms",
    "StartLimitBurst": "5",
    "StartLimitIntervalUSec": "10s",
}


def component(unit: str = "kiosk.service") -> Component:
    text = f'{TOML}unit = "{unit}"\n'
    return configuration.parse(text, Path("/etc/fleetfoot/agent.toml")).components["kiosk"]


def test_a_plain_service_gets_everything_that_the_contract_asks_for() -> None:
    dropin.check(PLAIN, component())
    assert dropin.render(PLAIN, component()) == (
        "[Unit]\n"
        "Wants=fleetfoot-guard@kiosk.service\n"
        "After=fleetfoot-guard@kiosk.service\n"
        "OnFailure=fleetfoot-wake.service\n"
        "ConditionPathIsSymbolicLink=/opt/fleetfoot/kiosk/current\n"
        "StartLimitBurst=10\n"
        "\n"
        "[Service]\n"
        "ExecStartPre=+/usr/lib/fleetfoot/fleetfoot-note kiosk\n"
        "Restart=on-failure\n"
        "RestartSec=1s\n"
    )


def test_what_is_preserved_is_put_back_by_a_unit_of_its_own() -> None:
    text = dropin.render(PLAIN, replace(component(), preserve=(Path("/etc/kiosk.conf"),)))
    assert text.startswith(
        "[Unit]\nWants=fleetfoot-guard@kiosk.service\nAfter=fleetfoot-guard@kiosk.service\n"
        "Wants=fleetfoot-restore@kiosk.service\nAfter=fleetfoot-restore@kiosk.service\n"
    )


#: What systemd says of a unit that can be a hook.
HOOK = {
    "Id": "drain.service",
    "LoadState": "loaded",
    "Type": "oneshot",
    "RemainAfterExit": "no",
    "RefuseManualStart": "no",
    "ExecStart": "{ path=/usr/local/bin/drain }",
}


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"LoadState": "not-found"}, "there is no such unit"),
        ({"LoadState": "masked"}, "it is masked"),
        ({"Id": "fleetfoot-keep@kiosk.service"}, "the agent's own"),
        ({"Type": "exec"}, "when it has ended"),
        ({"RemainAfterExit": "yes"}, "run but once"),
        ({"RefuseManualStart": "yes"}, "by hand"),
        ({"ExecStart": "{ path=/opt/fleetfoot/kiosk/current/bin/drain }"}, "the worker's user can write"),
    ],
)
def test_a_unit_that_cannot_be_a_hook_is_refused_and_says_why(facts: dict[str, str], why: str) -> None:
    dropin.check_hook(HOOK)
    with pytest.raises(FleetfootError, match="cannot be a hook") as caught:
        dropin.check_hook(HOOK | facts)
    assert why in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("path", ["/etc/a b", "/etc/a\\b", "/etc/ä"])
def test_a_path_that_systemd_would_read_otherwise_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(FleetfootError, match="preserve"):
        auxiliary.check(replace(component(), preserve=(Path(path),)), tmp_path, lambda _: HOOK)


def test_a_hook_of_another_component_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drain.service.d").mkdir()
    dropped = tmp_path / "drain.service.d" / auxiliary.HOOK_NAME
    dropped.write_text("# Made by: fleetfoot-agent adopt, for component other\n")
    wanted = replace(component(), hooks={"pre-activate": Hook(unit="drain.service")})
    with pytest.raises(FleetfootError, match="a hook of component other already"):
        auxiliary.check(wanted, tmp_path, lambda _: HOOK)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"Restart": "always"}, "Restart="),
        ({"Restart": "on-failure"}, "Restart="),
        ({"RestartUSec": "1s"}, "RestartSec="),
        ({"RestartUSec": "1min 500ms"}, "RestartSec="),
        ({"StartLimitBurst": "10"}, "StartLimitBurst="),
        ({"StartLimitIntervalUSec": "0"}, "StartLimitBurst="),
    ],
)
def test_what_a_unit_has_at_least_as_strong_stays_its_own(facts: dict[str, str], line: str) -> None:
    assert line in dropin.render(PLAIN, component())
    assert line not in dropin.render(PLAIN | facts, component())


@pytest.mark.parametrize("weak", ["on-abnormal", "on-abort", "on-watchdog", "on-success"])
def test_a_restart_that_does_not_answer_every_failure_is_replaced(weak: str) -> None:
    assert "Restart=on-failure\n" in dropin.render(PLAIN | {"Restart": weak}, component())


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"LoadState": "not-found"}, "there is no such unit"),
        ({"LoadState": "masked"}, "masked"),
        ({"LoadState": "bad-setting"}, "bad-setting"),
        ({"Id": "fleetfoot-worker.service"}, "the agent's own"),
        ({"Id": "fleetfoot-guard@kiosk.service"}, "the agent's own"),
        ({"Transient": "yes"}, "transient"),
        ({"Type": "oneshot"}, "oneshot"),
        ({"Type": "dbus"}, "D-Bus"),
        ({"BusName": "org.example.Kiosk"}, "D-Bus"),
        ({"Type": "forking"}, "PIDFile"),
        ({"RemainAfterExit": "yes"}, "RemainAfterExit"),
        ({"RootDirectory": "/srv/root"}, "current leads elsewhere"),
        ({"RefuseManualStart": "yes"}, "by hand"),
        ({"RefuseManualStop": "yes"}, "by hand"),
        ({"ExecStart": "{ path=/usr/bin/kiosk }"}, "would change nothing"),
        ({"ExecStart": "{ path=/opt/fleetfoot/kiosk/currently/bin }"}, "would change nothing"),
        ({"ExecStart": "{ path=/opt/fleetfoot/other/current/bin }"}, "would change nothing"),
    ],
)
def test_what_cannot_be_protected_is_refused_and_says_why(facts: dict[str, str], why: str) -> None:
    with pytest.raises(FleetfootError, match="cannot be adopted") as caught:
        dropin.check(PLAIN | facts, component())
    assert caught.value.code == "state_refused"
    assert why in caught.value.message
    assert caught.value.remedy


def test_a_launcher_that_only_works_in_the_tree_may_be_adopted() -> None:
    facts = {"ExecStart": "{ path=/usr/bin/java }", "WorkingDirectory": "/opt/fleetfoot/kiosk/current"}
    dropin.check(PLAIN | facts, component())


def test_adopting_twice_adds_the_same_again() -> None:
    text = dropin.render(PLAIN, component())
    adopted = {"Restart": "on-failure", "RestartUSec": "1s", "StartLimitBurst": "10"}
    assert dropin.render(dropin.without(PLAIN | adopted, text), component()) == text
    assert dropin.render(PLAIN | adopted, component()) != text


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("0", 0), ("100ms", 100_000), ("1s", 10**6), ("1min 30s", 90 * 10**6), ("1.5s", 1_500_000)],
)
def test_time_spans_are_read_as_systemd_prints_them(text: str, microseconds: int) -> None:
    assert dropin.span_us(text) == microseconds


@pytest.mark.parametrize("text", ["infinity", "1parsec"])
def test_a_time_span_without_a_number_is_none(text: str) -> None:
    assert dropin.span_us(text) is None


@pytest.mark.parametrize("unit", ["kiosk", "kiosk.timer", "../kiosk.service", "a b.service", ".service"])
def test_a_configured_unit_is_the_name_of_a_service(unit: str) -> None:
    with pytest.raises(ConfigError, match="unit must be the name of a service"):
        component(unit)
