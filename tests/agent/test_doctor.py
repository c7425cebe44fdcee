"""What the doctor makes of what it sees; the faults themselves are put into real devices in tests/lab."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleetfoot_agent import cli
from fleetfoot_agent import config as configuration
from fleetfoot_agent.doctor import device, findings, isolation, package, probe, units
from fleetfoot_agent.doctor.findings import Level

TOML = """\
[agent]
device = "dev-001"
group = "g-one"
state_dir = "state"
run_dir = "run"
install_root = "opt"
[broker]
url = "mqtt://127.0.0.1:9"
[components.kiosk]
max_boot_attempts = 3
unit = "kiosk.service"
"""

#: What systemd says of a unit that is adopted as it should be.
ADOPTED = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "Result": "success",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
    "Wants": "fleetfoot-guard@kiosk.service",
    "After": "basic.target fleetfoot-guard@kiosk.service",
    "OnFailure": "fleetfoot-wake.service",
    "Restart": "on-failure",
    "RestartUSec": "1s",
    "StartLimitBurst": "10",
    "StartLimitIntervalUSec": "10s",
}


def config(folder: Path = Path("/srv/device")) -> configuration.AgentConfig:
    return configuration.parse(TOML, folder / "agent.toml")


def judged(facts: dict[str, str]) -> list[str]:
    found = units.judge_adopted("kiosk.service", config().components["kiosk"], ADOPTED | facts)
    return [f.text for f in found if f.level is not Level.OK]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"Wants": "x.service"}, "starts without fleetfoot-guard@kiosk.service"),
        ({"After": "basic.target"}, "starts without fleetfoot-guard@kiosk.service"),
        ({"Restart": "on-abort"}, "stays down"),
        ({"OnFailure": ""}, "wakes nobody"),
        ({"StartLimitBurst": "9"}, "may start 9 times"),
        ({"ActiveState": "failed", "Result": "exit-code"}, "has failed: exit-code"),
        ({"UnitFileState": "disabled"}, "not started at boot"),
        ({"NeedDaemonReload": "yes"}, "changed on disk"),
    ],
)
def test_each_thing_that_was_taken_back_is_told(facts: dict[str, str], words: str) -> None:
    (text,) = judged(facts)
    assert words in text


def test_an_adopted_unit_is_well_and_told_whether_its_limit_can_be_reached() -> None:
    assert judged({}) == []
    assert judged({"StartLimitIntervalUSec": "0", "StartLimitBurst": "1"}) == []
    assert units.limit_reachable(ADOPTED | {"StartLimitIntervalUSec": "1min"})
    assert units.limit_reachable(ADOPTED | {"StartLimitIntervalUSec": "infinity"})
    assert not units.limit_reachable(ADOPTED)
    assert not units.limit_reachable(ADOPTED | {"StartLimitIntervalUSec": "0"})


def space(**changes: int) -> Any:
    facts = {"f_bavail": 10**6, "f_frsize": 4096, "f_files": 10**5, "f_favail": 10**5, "f_flag": 0}
    return SimpleNamespace(**facts | changes)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, Level.OK),
        ({"f_flag": os.ST_RDONLY}, Level.PROBLEM),
        ({"f_bavail": 100}, Level.PROBLEM),
        ({"f_favail": 10}, Level.PROBLEM),
        ({"f_files": 0, "f_favail": 0}, Level.OK),  # btrfs counts no inodes
    ],
)
def test_a_disk_is_judged_by_room_inodes_and_mode(changes: dict[str, int], level: Level) -> None:
    assert device.judge_disk("it", space(**changes), 0).level is level


def test_the_reserve_is_not_counted_as_room() -> None:
    assert device.judge_disk("it", space(), 10**6 * 4096).level is Level.PROBLEM


def tried(half: str, **changes: str) -> dict[str, str]:
    may = probe.writable(config())
    acts = {f"write {folder}": "refused" for folders in may.values() for folder in folders}
    acts |= {f"write {folder}": "done" for folder in may[half]}
    acts[f"open {config().worker_dir / 'device.key'}"] = "done" if half == "worker" else "refused"
    acts |= {"become root": "refused", "send 127.0.0.1": "done", "send 10.0.0.1": "refused"}
    return acts | {"half": half, "spool": "x"} | {key.replace("_", " "): v for key, v in changes.items()}


def test_walls_that_stand_are_ok_and_each_that_does_not_is_a_problem() -> None:
    for half in isolation.HALVES:
        assert [f.level for f in isolation.judge(config(), half, tried(half))] == [Level.OK]
        for act, outcome in tried(half).items():
            if act in ("half", "spool") or (half == "courier" and act.startswith("send")):
                continue
            other = "refused" if outcome == "done" else "done"
            found = isolation.judge(config(), half, tried(half) | {act: other})
            assert [f.level for f in found] == [Level.PROBLEM], (half, act)


def test_a_worker_that_nothing_could_be_tried_on_is_no_proof() -> None:
    acts = tried("worker") | {"send 10.0.0.1": "impossible: Network is unreachable"}
    assert [f.level for f in isolation.judge(config(), "worker", acts)] == [Level.ADVICE]


def test_files_of_the_package_are_compared(tmp_path: Path) -> None:
    good, edited = tmp_path / "good", tmp_path / "edited"
    good.write_text("a")
    edited.write_text("b")
    lines = f"{'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb'}  {good}\n"
    files = tmp_path / "files"
    files.write_text(lines)
    assert [f.level for f in package.package(files)] == [Level.OK]
    files.write_text(lines + f"{'0' * 64}  {edited}\n{'0' * 64}  {tmp_path / 'gone'}\n")
    texts = [f.text for f in package.package(files)]
    assert texts == [f"{edited} was edited", f"{tmp_path / 'gone'}: No such file or directory"]
    assert package.package(tmp_path / "none")[0].level is Level.ADVICE


def test_without_systemd_it_says_who_is_missing_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text(TOML.replace('unit = "kiosk.service"\n', ""))
    assert cli.main(["doctor", "--config", str(tmp_path / "agent.toml")]) == 1
    said = capsys.readouterr().out
    for words in ("there is no device key", "no supervisor answers", "ok      guard", "run as one user"):
        assert words in said
    assert "what to do: " in said


def test_text_from_elsewhere_is_shown_literally() -> None:
    assert "\\x1b[2J" in findings.as_text([findings.problem("unit", "\x1b[2J", "x")])
