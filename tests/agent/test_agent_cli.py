"""The device's own command beside a worker at work: asking, looking and checking, and how errors end.

What a newcomer types in order is in test_commands.
"""

import json
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, GROUP, Stock
from tests.agent.workerrig import Rig, hurry, make_rig
from tests.support.fleet import everybody

from fleetfoot_agent import cli, durable
from fleetfoot_agent import config as configuration
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.spool import Link
from fleetfoot_agent.worker import inspection
from fleetfoot_protocol.codes import TABLE, Code, Family
from fleetfoot_protocol.errors import GENERAL_REMEDIES, FleetfootError


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A device that runs 1.0.0 and is what every configuration leads to."""
    hurry(monkeypatch)
    found = make_rig(tmp_path, stock)
    found.install_first(stock["1.0.0"])
    monkeypatch.setattr(cli, "load", lambda path, options: found.config)
    monkeypatch.setattr(inspection, "SocketSeam", lambda path, timeout: found.machines[path.stem])
    return found


def agent(*words: str | Path) -> int:
    return cli.main(["--log-level", "error", *(str(word) for word in words)])


Said = Callable[[], list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Lines on stdout since the last time."""
    return lambda: capsys.readouterr().out.splitlines()


# -- init asks only what must be asked


def init(house: Any, folder: Path, *more: str, root: Path | None = None) -> int:
    places = [f"--{name}={folder / name}" for name in ("state-dir", "run-dir", "install-root")]
    who = ["--device", DEVICE, "--group", GROUP, "--broker", "mqtt://127.0.0.1", "--component", "kiosk"]
    config = ["--config", str(folder / "agent.toml"), "--root", str(root or house.root_path)]
    return agent("init", *who, *config, *places, *more)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_without_a_terminal_init_wants_the_question_answered_and_makes_nothing(
    stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert init(stock.house, tmp_path) == cli.USAGE
    errors = capsys.readouterr().err
    assert "code: usage" in errors
    assert "--enable or --no-enable" in errors
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "enabled"), [("y", True), (" Yes ", True), ("", False), ("n", False), ("yep", False)]
)
def test_at_a_terminal_init_asks_and_takes_silence_for_no(
    stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, enabled: bool
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert init(stock.house, tmp_path) == cli.OK
    assert configuration.load(tmp_path / "agent.toml").policy.enabled is enabled


@pytest.mark.parametrize(("option", "enabled"), [("--enable", True), ("--no-enable", False)])
def test_an_option_answers_the_question(stock: Stock, tmp_path: Path, option: str, enabled: bool) -> None:
    assert init(stock.house, tmp_path, option) == cli.OK
    assert configuration.load(tmp_path / "agent.toml").policy.enabled is enabled


def test_init_refuses_an_existing_device_and_leaves_it_alone(
    stock: Stock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(stock.house, tmp_path, "--enable") == cli.OK
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert init(stock.house, tmp_path, "--no-enable") == cli.FAILED
    assert "code: exists_already" in capsys.readouterr().err
    (tmp_path / "agent.toml").unlink()  # the key alone is a device, too
    assert init(stock.house, tmp_path, "--no-enable") == cli.FAILED
    del before[tmp_path / "agent.toml"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_secrets_are_for_the_worker_only(stock: Stock, tmp_path: Path) -> None:
    assert init(stock.house, tmp_path, "--enable") == cli.OK
    worker = configuration.load(tmp_path / "agent.toml").worker_dir
    assert stat.S_IMODE(worker.stat().st_mode) == 0o700
    for name in ("device.key", "root.json"):
        assert stat.S_IMODE((worker / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["--label", "north"], cli.USAGE, "usage"),
        (["--broker", "http://127.0.0.1"], cli.USAGE, "config_invalid"),
        (["--device", "Dev 1"], cli.USAGE, "config_invalid"),
        (["--component", "no.dots"], cli.USAGE, "config_invalid"),
    ],
)
def test_a_wrong_answer_makes_nothing(
    stock: Stock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    code: str,
) -> None:
    assert init(stock.house, tmp_path, "--enable", *words) == status
    assert f"code: {code}" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_init_wants_a_root_that_signs_for_itself(
    stock: Stock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.json"
    assert init(stock.house, tmp_path / "d", "--enable", root=missing) == cli.FAILED
    assert "code: not_found" in capsys.readouterr().err
    _, forged = stock.root_after(stock.house.root, signed_by="release")
    missing.write_bytes(forged)
    assert init(stock.house, tmp_path / "d", "--enable", root=missing) == cli.TRUST
    missing.write_bytes(b"no root")
    assert init(stock.house, tmp_path / "d", "--enable", root=missing) == cli.FAILED
    assert not (tmp_path / "d").exists()


# -- status


def test_status_before_the_first_run_says_what_to_do(
    stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = make_rig(tmp_path, stock)
    monkeypatch.setattr(cli, "load", lambda path, options: fresh.config)
    assert agent("status") == cli.FAILED
    errors = capsys.readouterr().err
    assert "code: not_found" in errors
    assert "fleetfoot-agent run" in errors


def test_status_tells_what_runs_and_where_it_could_go_back(rig: Rig, stock: Stock, said: Said) -> None:
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    rig.courier.write_link(Link(True, 1.0, "boot"))
    said()
    assert agent("status") == cli.OK
    text = "\n".join(said())
    assert f"device {DEVICE}  group {GROUP}" in text
    assert "broker connected" in text
    assert "upgrades from outside: enabled" in text
    assert "kiosk: runs 1.1.0  way back 1.0.0" in text
    assert "answered accepted to sequence 2" in text
    assert "1.1.0  completed" in text


def test_status_tells_a_refusal_with_code_meaning_and_remedy(rig: Rig, stock: Stock, said: Said) -> None:
    rig.obey(enabled=False)
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.send(stock.order(1, hold=True))
    rig.run()
    said()
    assert agent("status") == cli.OK
    text = "\n".join(said())
    assert "upgrades from outside: disabled" in text
    for code in (Code.UPGRADE_DISABLED, Code.UPGRADE_SEQUENCE_REPLAYED):
        assert code in text
        assert f"{TABLE[code].meaning}; {TABLE[code].remedy}" in text
    assert "broker not connected" in text


def test_status_tells_alarms_and_a_supervisor_that_does_not_answer(
    rig: Rig, stock: Stock, said: Said
) -> None:
    rig.send(stock.order(2, withdrawn=(stock["1.0.0"].digest,)))
    rig.run()
    rig.machine.unreachable = True
    said()
    assert agent("status") == cli.OK
    text = "\n".join(said())
    assert "alarm: upgrade_no_way_back" in text
    assert "process unknown: nobody answers" in text


def test_status_as_json_is_the_document_itself(rig: Rig, said: Said) -> None:
    said()
    assert agent("status", "--json") == cli.OK
    pair = rig.courier.read_status()
    assert pair is not None
    assert "\n".join(said()).encode() == pair[0]


# -- verify


def installed(rig: Rig, stock: Stock) -> Path:
    return rig.layout.tree(version_name("1.0.0", stock["1.0.0"].digest))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"#")


def relink(link: Path) -> None:
    link.unlink()
    link.symlink_to("bin/kiosk")


TAMPERED: dict[str, Callable[[Path], object]] = {
    "a changed file": lambda tree: append(tree / "bin" / "kiosk"),
    "a removed file": lambda tree: (tree / "share" / "version").unlink(),
    "a new file": lambda tree: (tree / "bin" / "more").write_bytes(b""),
    "a mode": lambda tree: (tree / "share" / "version").chmod(0o755),
    "a link": lambda tree: relink(tree / "latest"),
    "a fifo": lambda tree: os.mkfifo(tree / "pipe"),
    "its envelope": lambda tree: tree.with_name(f"{tree.name}.release.json").unlink(),
    "another's envelope": lambda tree: tree.with_name(f"{tree.name}.release.json").write_bytes(b"{}"),
}


def test_verify_is_content_with_what_was_signed(rig: Rig, stock: Stock, said: Said) -> None:
    said()
    assert agent("verify") == cli.OK
    assert said() == [f"ok  kiosk {installed(rig, stock).name} (current)"]
    assert agent("verify", "--json") == cli.OK
    tree = {"component": "kiosk", "tree": installed(rig, stock).name, "current": True, "problem": ""}
    assert [json.loads(line) for line in said()] == [{"ok": True, "trees": [tree]}]


@pytest.mark.parametrize("case", TAMPERED)
def test_verify_finds_whatever_was_tampered_with(rig: Rig, stock: Stock, said: Said, case: str) -> None:
    TAMPERED[case](installed(rig, stock))
    said()
    assert agent("verify") == cli.FAILED
    assert said()[0].startswith(f"BAD kiosk {installed(rig, stock).name} (current) ")
    assert agent("verify", "--json") == cli.FAILED
    answer = json.loads(said()[0])
    assert not answer["ok"]
    assert answer["trees"][0]["problem"]


def test_verify_finds_the_manifest_of_another_release_beside_a_tree(
    rig: Rig, stock: Stock, said: Said
) -> None:
    other = stock.changed(stock["1.0.0"], notes="the same files, another release")
    beside = installed(rig, stock).with_name(f"{installed(rig, stock).name}.release.json")
    beside.write_bytes(other.envelope)
    said()
    assert agent("verify") == cli.FAILED
    assert said()[0].startswith("BAD ")


def test_verify_tells_a_current_that_leads_elsewhere(rig: Rig, said: Said) -> None:
    rig.layout.current.unlink()
    rig.layout.current.symlink_to("/usr")
    said()
    assert agent("verify") == cli.FAILED
    assert said()[0].startswith("BAD kiosk current")


def test_verify_of_an_empty_device_says_so(
    stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    fresh = make_rig(tmp_path, stock)
    monkeypatch.setattr(cli, "load", lambda path, options: fresh.config)
    said()
    assert agent("verify") == cli.OK
    assert said() == ["nothing is installed"]


@pytest.mark.parametrize("command", ["status", "verify"])
def test_looking_disturbs_nobody_who_is_writing(rig: Rig, command: str) -> None:
    """A worker at work has unfinished files in these folders; taking them away would end its run."""
    out = rig.config.spool / "out"
    unfinished = [
        folder / f"{durable.TEMP_PREFIX}{'0' * 16}"
        for folder in (out, out / "event", rig.config.worker_dir, rig.config.worker_dir / "docs")
    ]
    for path in unfinished:
        path.write_bytes(b"half")
    before = sorted(rig.folder.rglob("*"))
    assert agent(command) == cli.OK
    assert sorted(rig.folder.rglob("*")) == before


# -- how errors end


def raising(error: BaseException) -> Callable[..., None]:
    def load(*_: object) -> None:
        raise error

    return load


def expected(code: str) -> int:
    if code in ("usage", "config_invalid"):
        return cli.USAGE
    checksums = (Code.UPGRADE_LENGTH_MISMATCH, Code.UPGRADE_CHECKSUM_MISMATCH)
    if code in checksums or (code in TABLE and TABLE[Code(code)].family is Family.TRUST):
        return cli.TRUST
    return cli.FAILED


@pytest.mark.parametrize("code", sorted([*Code, *GENERAL_REMEDIES]))
def test_every_error_ends_with_cause_code_remedy_and_its_status(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load", raising(FleetfootError(code, "what \x1b[31mhappened")))
    assert agent("status") == expected(code)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: what \\x1b[31mhappened",
        f"code: {code}",
        f"what to do: {FleetfootError(code, '').remedy}",
    ]


def test_errors_for_programs_are_one_object_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load", raising(FleetfootError("not_found", "nothing there", remedy="look")))
    assert agent("verify", "--json") == cli.FAILED
    error = {"code": "not_found", "message": "nothing there", "remedy": "look"}
    assert json.loads(capsys.readouterr().out) == {"error": error}


def test_a_disk_that_refuses_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load", raising(OSError(28, "No space left on device", "/var/lib/x")))
    assert agent("worker") == cli.FAILED
    assert "error: /var/lib/x: No space left on device" in capsys.readouterr().err


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load", raising(KeyboardInterrupt()))
    assert agent("worker") == 130


def test_the_worker_command_is_one_run(rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetfoot_agent.worker.run.SocketSeam", lambda path: rig.machines[path.stem])
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    for _ in range(4):
        assert agent("worker") == cli.OK
        rig.carry()
    assert rig.runs(stock["1.1.0"])


def test_the_version_is_the_distribution_s(said: Said) -> None:
    with pytest.raises(SystemExit) as left:
        agent("--version")
    assert left.value.code == cli.OK
    assert said()[0].split()[-1].count(".") == 2


def test_install_passes_the_device_s_refusal_on(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fleetfoot_agent.worker.run.SocketSeam", lambda path: rig.machines[path.stem])
    rig.obey(policy='pins = {kiosk = "1.0.0"}')
    assert agent("install", stock["1.1.0"].path) == cli.FAILED
    assert "code: upgrade_pinned" in capsys.readouterr().err
    rig.obey()
    assert agent("install", stock["1.1.0"].path) == cli.OK
    assert rig.runs(stock["1.1.0"])


def test_a_line_for_the_journal_has_its_priority_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> logging.Formatter:
        root = logging.Logger("root")
        monkeypatch.setattr(logging, "root", root)
        cli._logging("info")
        (handler,) = root.handlers
        assert handler.formatter is not None
        return handler.formatter

    facts = {
        "name": "fleetfoot_agent.x",
        "levelname": "WARNING",
        "msg": "component=%s\nmore",
        "args": ("kiosk",),
    }
    record = logging.makeLogRecord(facts)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert made().format(record) == "<4>fleetfoot_agent.x component=kiosk\n<4>more"
    monkeypatch.delenv("JOURNAL_STREAM")
    assert " WARNING fleetfoot_agent.x component=kiosk" in made().format(record)
