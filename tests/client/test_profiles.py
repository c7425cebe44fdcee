"""Profiles: what is written is read back, what is wrong is named, the environment overrides."""

import os
from pathlib import Path

import pytest
from tests.client.rig import Fleet, Run

from fleetfoot_client import profiles
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.errors import FleetfootError

BROKER = "mqtt://127.0.0.1:1883"


def made(run: Run, fleet: Fleet, name: str, *extra: object) -> int:
    return run(
        "profile", "set", name, "--broker", BROKER, "--operator", "alice",
        "--key", fleet.key("alice"), "--root", fleet.root, *extra,
    ).code  # fmt: skip


def test_the_first_profile_is_the_default_until_another_is_made_so(fleet: Fleet, run: Run) -> None:
    assert made(run, fleet, "one") == made(run, fleet, "two") == 0
    assert profiles.choose(None, os.environ).name == "one"
    assert made(run, fleet, "two", "--default") == 0
    assert profiles.choose(None, os.environ).name == "two"
    assert profiles.choose("one", os.environ).name == "one"
    assert profiles.choose(None, {**os.environ, "FLEETFOOT_PROFILE": "one"}).name == "one"
    assert "*  two" in run("profile", "list").out


def test_a_profile_survives_its_file_with_every_setting(own_configuration: Path) -> None:
    settings = {field: f'/odd "path"\\ü/{field}' for field in profiles._PATHS}
    settings |= {"broker": "mqtts://b.example.org", "operator": "o", "topic_root": "x/y", "username": "u'\\"}
    profile = profiles.make("p-1", settings)
    profiles.save(profile, os.environ, default=False)
    assert profiles.choose("p-1", os.environ) == profile
    assert profile.address == profiles.Address("b.example.org", 8883, tls=True)
    assert [path.name for path in own_configuration.iterdir()] == ["profiles.toml"]


def test_paths_are_kept_absolute(
    fleet: Fleet, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet.key("alice")
    monkeypatch.chdir(tmp_path)
    done = run(
        "profile", "set", "p", "--broker", BROKER, "--operator", "alice",
        "--key", "keys/alice.key", "--root", "root.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert profiles.choose("p", os.environ).key == tmp_path / "keys" / "alice.key"


def test_the_environment_overrides_fields_and_suffices_alone(fleet: Fleet, run: Run) -> None:
    environ = {
        **os.environ,
        "FLEETFOOT_BROKER": "mqtt://other",
        "FLEETFOOT_OPERATOR": "bob",
        "FLEETFOOT_KEY": "/k",
        "FLEETFOOT_ROOT": "/r",
    }
    alone = profiles.choose(None, environ)
    assert (alone.name, alone.operator, alone.key) == ("environment", "bob", Path("/k"))
    made(run, fleet, "one")
    del environ["FLEETFOOT_OPERATOR"]
    mixed = profiles.choose(None, environ)
    assert (mixed.name, mixed.broker, mixed.operator) == ("one", "mqtt://other", "alice")


@pytest.mark.parametrize(
    ("name", "known", "code"),
    [(None, [], "config_invalid"), ("no", ["one"], "not_found")],
)
def test_a_profile_that_is_not_there_is_an_error_with_a_way_out(
    fleet: Fleet, run: Run, name: str | None, known: list[str], code: str
) -> None:
    for each in known:
        made(run, fleet, each)
    with pytest.raises(FleetfootError, match="profile") as caught:
        profiles.choose(name, os.environ)
    assert caught.value.code == code
    assert "fleetfoot profile" in caught.value.remedy


def test_a_key_that_the_root_does_not_give_the_operator_is_refused_now(fleet: Fleet, run: Run) -> None:
    assert made(run, fleet, "p", "--key", fleet.key("bob")) == Exit.FAILED
    assert made(run, fleet, "p", "--operator", "bob") == Exit.FAILED
    assert made(run, fleet, "p", "--key", fleet.public("alice")) == Exit.FAILED
    assert profiles.read_book(os.environ).profiles == {}


@pytest.mark.parametrize(
    "broker",
    [
        "http://b", "mqtt://", "b:1883", "mqtt://b:99999", "mqtt://b/topic", "mqtt://u:p@b", "mqtt://b\x1b",
    ],
)  # fmt: skip
def test_a_broker_that_is_none_is_refused(fleet: Fleet, run: Run, broker: str) -> None:
    assert made(run, fleet, "p", "--broker", broker) == Exit.USAGE


@pytest.mark.parametrize(
    "text",
    [
        "default = 1",
        "nonsense",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 'k'",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 'k'\nroot = 'r'\nkeyy = 'x'",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 7\nroot = 'r'",
        "[profiles.P]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 'k'\nroot = 'r'",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o/+'\nkey = 'k'\nroot = 'r'",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 'k'\nroot = 'r'\ntopic_root = '#'",
        "[profiles.p]\nbroker = 'mqtt://b'\noperator = 'o'\nkey = 'k'\nroot = 'r'\ncert_file = 'c'",
    ],
)
def test_a_file_with_something_wrong_is_refused_by_name(own_configuration: Path, run: Run, text: str) -> None:
    own_configuration.mkdir()
    (own_configuration / "profiles.toml").write_text(text)
    done = run("profile", "list", "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.USAGE, "config_invalid")


def test_show_tells_what_would_be_used(fleet: Fleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made(run, fleet, "one")
    monkeypatch.setenv("FLEETFOOT_BROKER", "mqtt://elsewhere")
    assert run("profile", "show", "--json").json["broker"] == "mqtt://elsewhere"
    shown = run("profile", "show", "one").out
    assert "operator    alice" in shown
    assert fleet.secret("alice").hex() not in shown
