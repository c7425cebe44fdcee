"""File, environment, options: which one counts, what each may say, and who is told to have said it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleetfoot_agent import cli, windows
from fleetfoot_agent.config import AgentConfig, load, parse
from fleetfoot_agent.policy import Window
from fleetfoot_agent.settings import ConfigError

FILE = """\
[agent]
device = "dev-001"
group = "kitchens"
[broker]
url = "mqtt://127.0.0.1"
[upgrade]
enabled = true
min_version = "1.0.0"
pins = {kiosk = "1.0.0"}
[components.kiosk]
window = 60
"""
PATH = Path("/nowhere/agent.toml")


def read(environ: dict[str, str] | None = None, *options: str) -> AgentConfig:
    return parse(FILE, PATH, environ=environ, options=options)


def test_an_option_is_above_the_environment_which_is_above_the_file() -> None:
    assert read().policy.min_version == "1.0.0"
    variable = {"FLEETFOOT_UPGRADE_MIN_VERSION": "1.1.0"}
    assert read(variable).policy.min_version == "1.1.0"
    assert read(variable, "upgrade.min_version=1.2.0").policy.min_version == "1.2.0"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("enabled", "false", False),
        ("allowed_channels", "stable, beta", ("stable", "beta")),
        ("allowed_channels", '["dev"]', ("dev",)),
        ("pins", "kiosk=2.0.0,web=1.0.0", {"kiosk": "2.0.0", "web": "1.0.0"}),
        ("pins", '{kiosk = "3.0.0"}', {"kiosk": "3.0.0"}),
        ("disk_reserve", "200_000", 200_000),
        ("keep_versions", "5", 5),
        ("splay", "60", 60),
        ("consent", "TRUE", True),
        ("bandwidth", "2048", 2048),
    ],
)
def test_every_kind_of_setting_can_be_given_from_outside(key: str, text: str, value: Any) -> None:
    assert getattr(read({f"FLEETFOOT_UPGRADE_{key.upper()}": text}).policy, key) == value
    assert getattr(read(None, f"upgrade.{key}={text}").policy, key) == value


def test_windows_components_and_single_pins_can_be_given_too() -> None:
    found = read(
        {"FLEETFOOT_UPGRADE_WINDOWS": '[{start = "0 2 * * *"}]', "FLEETFOOT_AGENT_DEVICE": "007"},
        "components.kiosk.window=5",
        "upgrade.pins.web=2.0.0",
    )
    assert found.policy.windows == (Window("0 2 * * *", 60, "UTC"),)
    assert (found.device, found.components["kiosk"].window) == ("007", 5.0)
    assert found.policy.pins == {"kiosk": "1.0.0", "web": "2.0.0"}
    assert found.settings["upgrade.pins"].origin == f"{PATH}, --set upgrade.pins.web"


@pytest.mark.parametrize(
    ("environ", "options", "named"),
    [
        ({"FLEETFOOT_UPGRADE_ENABLE": "true"}, (), "FLEETFOOT_UPGRADE_ENABLE"),
        ({"FLEETFOOT_UPGRADE_ENABLED": "yes"}, (), "FLEETFOOT_UPGRADE_ENABLED"),
        ({"FLEETFOOT_UPGRADE_DISK_RESERVE": "much"}, (), "upgrade.disk_reserve"),
        ({"FLEETFOOT_UPGRADE_PINS": "kiosk"}, (), "upgrade.pins"),
        ({}, ("upgrade.splay",), "--set"),
        ({}, ("splay=5",), "--set"),
        ({}, ("upgrade.enabled.very=true",), "upgrade.enabled"),
        ({}, ("upgrade.nothing=1",), "upgrade.nothing"),
        ({}, ("upgrade.bandwidth=100",), "at least 1024"),
        ({}, ("upgrade.splay=604801",), "upgrade.splay"),
    ],
)
def test_what_cannot_be_is_refused_and_its_origin_named(
    environ: dict[str, str], options: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(environ, *options)
    assert named in error.value.message


def test_variables_of_others_are_left_alone() -> None:
    others = {"FLEETFOOT_BROKER": "mqtt://x", "FLEETFOOT_COMPONENT": "kiosk", "FLEETFOOT_SEED": "1"}
    assert read(others) == read()


def test_config_show_tells_each_setting_and_who_set_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(FILE)
    monkeypatch.setenv("FLEETFOOT_UPGRADE_SPLAY", "30")
    words = ["config", "show", "--config", str(path), "--set", "upgrade.enabled=false"]
    assert cli.main([*words, "--origin", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = {
        "upgrade.enabled": (False, "--set upgrade.enabled"),
        "upgrade.splay": (30, "FLEETFOOT_UPGRADE_SPLAY"),
        "upgrade.min_version": ("1.0.0", str(path)),
        "upgrade.keep_versions": (2, "default"),
        "components.kiosk.window": (60, str(path)),
        "broker.url": ("mqtt://127.0.0.1", str(path)),
    }
    assert {n: (found[n]["value"], found[n]["origin"]) for n in expected} == expected
    assert cli.main(words) == 0
    assert "upgrade.enabled = false" in capsys.readouterr().out.splitlines()
    assert load(path, ["upgrade.enabled=false"]).options == ("upgrade.enabled=false",)


# -- maintenance windows


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NIGHTS = Window("0 2 * * 1-5", 120, "Europe/Berlin")
#: Moments in UTC, and when, in UTC, the state of the window changes next.
LOOKS = [
    ("2026-07-01 23:59:59", False, "2026-07-02 00:00:00"),  # summer: two hours ahead
    ("2026-07-02 00:00:00", True, "2026-07-02 02:00:00"),
    ("2026-07-02 01:59:59", True, "2026-07-02 02:00:00"),
    ("2026-07-02 02:00:00", False, "2026-07-03 00:00:00"),
    ("2026-07-03 12:00:00", False, "2026-07-06 00:00:00"),  # over the weekend
    ("2026-01-05 00:30:00", False, "2026-01-05 01:00:00"),  # winter: one hour ahead
    ("2026-01-05 01:00:00", True, "2026-01-05 03:00:00"),
]


@pytest.mark.parametrize(("moment", "is_open", "until"), LOOKS)
def test_a_window_is_open_by_the_clock_of_its_zone(moment: str, is_open: bool, until: str) -> None:
    assert windows.look([NIGHTS], at(moment)) == windows.Opening(is_open, int(at(until)))


def test_an_hour_that_summer_time_leaves_out_is_made_up_for_and_one_that_comes_twice_counts_once() -> None:
    gap, twice = Window("30 2 29 3 *", 30, "Europe/Berlin"), Window("30 2 25 10 *", 30, "Europe/Berlin")
    assert windows.look([gap], at("2026-03-29 00:59:59")) == windows.Opening(
        False, int(at("2026-03-29 01:00:00"))
    )
    assert windows.look([gap], at("2026-03-29 01:10:00")).open
    opened = [
        minute
        for minute in range(0, 181)
        if windows.look([twice], at("2026-10-25 00:00:00") + 60 * minute).open
    ]
    assert len(opened) == 30


def test_of_several_windows_one_is_enough_and_without_any_it_is_always_open() -> None:
    days = Window("0 12 * * *", 60, "UTC")
    assert windows.look([NIGHTS, days], at("2026-07-01 12:30:00")).open
    assert windows.look([NIGHTS, days], at("2026-07-01 13:30:00")).until == at("2026-07-02 00:00:00")
    assert windows.look([], 0) == windows.Opening(True, None)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('{start = "0 25 * * *"}', "cron"),
        ('{start = "at night"}', "cron"),
        ('{start = "0 0 30 2 *"}', "cron"),
        ('{start = "0 2 * * *", timezone = "Mars/Olympus"}', "timezone"),
        ('{start = "0 2 * * *", minutes = 0}', "minutes"),
        ('{start = "0 2 * * *", lenght = 5}', "lenght"),
        ("{minutes = 5}", "start"),
        ('"0 2 * * *"', "list of tables"),
    ],
)
def test_an_impossible_window_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(ConfigError, match="windows") as error:
        read(None, f"upgrade.windows=[{setting}]")
    assert named in error.value.message
