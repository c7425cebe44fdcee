"""The command itself: finding subcommands, errors, exit codes, interruptions."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from tests.client.rig import Run

from fleetfoot_client import cli
from fleetfoot_client.exits import Exit, exit_of
from fleetfoot_protocol.codes import TABLE, Code, Family
from fleetfoot_protocol.errors import GENERAL_REMEDIES, FleetfootError

COMMAND = [sys.executable, "-c", "import sys; from fleetfoot_client.cli import main; sys.exit(main())"]


def test_the_version_is_the_distributions(run: Run) -> None:
    assert run("--version") == run("--version")
    assert run("--version").out == f"fleetfoot {version('fleetfoot')}\n"


def test_help_names_every_own_command(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for command in ("key", "trust", "release", "rollout", "device", "events", "profile"):
        assert f"\n    {command} " in done.out


def test_without_a_command_it_shows_the_help_and_fails(run: Run) -> None:
    done = run()
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert "usage: fleetfoot" in done.err


def test_an_unknown_command_gets_a_suggestion(run: Run) -> None:
    done = run("rolout", "list")
    assert done.code == Exit.USAGE
    assert "did you mean 'rollout'?" in done.err
    assert "\x1b" not in run("\x1b[2J").err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("key",), "key"),
        (("key", "new"), "key new"),
        (("rollout", "decide", "r-1", "maybe"), "rollout decide"),
        (("device", "list", "--nope"), "device list"),
    ],
)
def test_wrong_usage_is_two_and_names_the_help_of_the_command(
    run: Run, arguments: tuple[str, ...], command: str
) -> None:
    done = run(*arguments)
    assert done.code == Exit.USAGE
    assert f"\ncode: usage\nwhat to do: see 'fleetfoot {command} --help'" in done.err
    said = run(*arguments, "--json")
    assert (said.code, json.loads(said.out)["error"]["code"]) == (Exit.USAGE, "usage")


@pytest.mark.parametrize("program", ["fleetfoot", "fleetfoot-agent"])
def test_streams_that_are_closed_or_that_nobody_reads_are_no_traceback(program: str) -> None:
    command = Path(sys.executable).parent / program
    done = subprocess.run(["bash", "-c", f"'{command}' --help >&- <&-"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        done = subprocess.run([command, "-x", "--json"], stdout=nobody, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def entry(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    found = [EntryPoint(name, value, cli.GROUP)]
    monkeypatch.setattr(cli, "entry_points", lambda group: found if group == cli.GROUP else [])


def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str) -> None:
    """A command `name` whose handler runs `body`."""
    source = "\n".join(
        [
            "def handler(args):",
            *(f"    {line}" for line in body.splitlines()),
            "def register(subparsers):",
            f"    parser = subparsers.add_parser({name!r})",
            "    parser.add_argument('--json', action='store_true')",
            "    parser.set_defaults(handler=handler)",
        ]
    )
    module = f"plugin_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry(monkeypatch, name, f"{module}:register")


@pytest.mark.parametrize("value", ["no_such_module_anywhere:register", "fleetfoot_client.exits:register"])
def test_a_command_that_cannot_be_loaded_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    entry(monkeypatch, "demo", value)
    done = run("demo")
    assert done.code == Exit.FAILED
    assert "what to do: install its extra, in a checkout: pip install '.[demo]'" in done.err
    assert "Traceback" not in done.err
    assert "demo: install its extra, in a checkout: pip install '.[demo]'" in run("--help").out


def test_a_module_missing_only_when_it_runs_names_the_extra_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path, monkeypatch, "manager", "import no_such_module_anywhere")
    done = run("manager", "--json")
    assert done.code == Exit.FAILED
    assert done.json["error"]["remedy"] == "install its extra, in a checkout: pip install '.[manager]'"


def test_an_error_says_cause_code_and_what_to_do_literally(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising = "from fleetfoot_protocol.errors import FleetfootError\n"
    raising += "raise FleetfootError('conflict', 'was\\x1b[2J taken', remedy='look')"
    plugin(tmp_path, monkeypatch, "act", raising)
    assert run("act").err == "error: was\\x1b[2J taken\ncode: conflict\nwhat to do: look\n"
    as_json = run("act", "--json")
    assert as_json.json == {"error": {"code": "conflict", "message": "was\x1b[2J taken", "remedy": "look"}}
    assert as_json.err == ""
    assert "\x1b" not in as_json.out


def test_an_error_of_the_system_is_no_traceback(run: Run, tmp_path: Path) -> None:
    done = run("key", "new", tmp_path / "missing" / "a.key")
    assert done.code == Exit.FAILED
    assert f"error: {tmp_path}/missing/a.key: No such file or directory" in done.err
    assert "code: io_error" in done.err


def test_ctrl_c_is_130_without_a_traceback(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, monkeypatch, "wait", "raise KeyboardInterrupt")
    done = run("wait")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "profile", "list"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (Exit.BROKEN_PIPE, "")


def test_an_output_without_glyphs_shows_their_numbers() -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    show = "from fleetfoot_client import cli, terminal; cli.main(['--version']); terminal.say('\\u2713')"
    done = subprocess.run([sys.executable, "-c", show], env=environ, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.endswith(b"\\u2713\n")


def test_a_command_loads_only_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from fleetfoot_client.cli import main\n"
        f"assert main(['key', 'new', {str(tmp_path / 'a.key')!r}, '--json']) == 0\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'nacl'" in done.stderr
    for heavy in ("pydantic", "paho", "fleetfoot_manager", "fleetfoot_sim", "amqtt", "sqlalchemy"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.parametrize("code", [*GENERAL_REMEDIES, *Code])
def test_every_code_has_the_exit_code_of_its_kind(code: str) -> None:
    expected = {
        "usage": 2,
        "config_invalid": 2,
        "unsafe_binding": 2,
        "timeout": 4,
        "broker_unreachable": 6,
        "store_refused": 78,
        "store_taken": 78,
        "upgrade_length_mismatch": 5,
        "upgrade_checksum_mismatch": 5,
    }.get(code, 1)
    if code in list(Code) and TABLE[Code(code)].family is Family.TRUST:
        expected = 5
    assert exit_of(FleetfootError(code, "")) == expected
