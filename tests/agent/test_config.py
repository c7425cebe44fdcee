"""A misspelt or impossible setting is refused by name, before anything relies on it."""

from pathlib import Path

import pytest

from fleetfoot_agent.config import parse
from fleetfoot_agent.settings import ConfigError
from fleetfoot_protocol import versions

GOOD = """\
[agent]
device = "dev-001"
group = "kitchens"
labels = {{{labels}}}
[broker]
url = "mqtt://127.0.0.1"
[upgrade]
{upgrade}
[components.kiosk]
"""


def config(upgrade: str = "", labels: str = "") -> None:
    parse(GOOD.format(upgrade=upgrade, labels=labels), Path("/nowhere/agent.toml"))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('min_version = "1.2"', "upgrade.min_version"),
        ('min_version = "1.2.3+build"', "upgrade.min_version"),
        ('min_version = "01.2.3"', "upgrade.min_version"),
        ('pins = {kiosk = "latest"}', "upgrade.pins.kiosk"),
        ('pins = {"Kiosk!" = "1.0.0"}', "upgrade.pins"),
        ('allowed_channels = ["nightly"]', "upgrade.allowed_channels"),
        ("enable = true", "upgrade.enable"),
        ("enabled = 1", "upgrade.enabled"),
    ],
)
def test_an_impossible_policy_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(upgrade=setting)
    assert named in error.value.message


@pytest.mark.parametrize(
    "labels", ['"" = "x"', '"a b" = "x"', 'site = "\\u202equay"', f'site = "{"x" * 129}"']
)
def test_a_label_that_no_status_could_carry_is_refused(labels: str) -> None:
    with pytest.raises(ConfigError, match="labels"):
        config(labels=labels)


@pytest.mark.parametrize("version", ["1.2.3", "0.0.0", "1.2.3-rc.1", "1.0.0-0a.x-y"])
def test_versions_are_those_of_the_contract(version: str) -> None:
    assert versions.check(version) == version
    config(upgrade=f'min_version = "{version}"\npins = {{kiosk = "{version}"}}')
