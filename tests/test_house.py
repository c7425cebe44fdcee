"""The house rules that a machine can check: who imports whom, what is in the tree, what is in the wheel."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, entry_points
from inspect import signature
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

# The room table: what each room may import besides itself and the standard library.
PROTOCOL = {"nacl", "pydantic", "pydantic_core", "semver"}
BASE = PROTOCOL | {"fleetfoot_protocol", "paho", "platformdirs"}
SERVERS = {"aiohttp", "alembic", "amqtt", "cryptography", "immutables", "psycopg", "sqlalchemy"}
ROOMS: dict[str, set[str]] = {
    "protocol": PROTOCOL,
    "agent": BASE | {"cronsim", "isal"},
    "manager": BASE | SERVERS,
    "client": BASE,
    "tui": BASE | {"fleetfoot_client", "rich", "textual"},
    "sim": BASE
    | SERVERS
    | {"fleetfoot_agent", "fleetfoot_manager", "fleetfoot_client", "fleetfoot_tui", "rich"},
}


def imports_of(source: Path) -> Iterator[tuple[int, str]]:
    """Every import in a file, wherever it stands: (line, top-level module)."""
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_room_table_allows(room: str) -> None:
    package = f"fleetfoot_{room}"
    sources = sorted((ROOT / room / package).rglob("*.py"))
    assert sources
    allowed = ROOMS[room] | {package} | sys.stdlib_module_names
    broken = [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in sources
        for line, module in imports_of(source)
        if module not in allowed
    ]
    assert broken == []


def modules_after(statement: str) -> tuple[set[str], set[str]]:
    """Run one import in a bare interpreter. Returns (all modules loaded, those the statement added).

    Names are shortened to their first part, except the fleetfoot packages. The measuring of coverage is
    kept out of the child: it would load what is asked about.
    """
    code = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\n"
        "for name in sorted(sys.modules):\n    print('+' if name not in before else '-', name)\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    run = subprocess.run([sys.executable, "-I", "-c", code], env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line.split(" ") for line in run.stdout.splitlines()]
    top = [(sign, name if name.startswith("fleetfoot") else name.partition(".")[0]) for sign, name in lines]
    return {name for _, name in top}, {name for sign, name in top if sign == "+"}


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_package_loads_nothing_else(room: str) -> None:
    _, added = modules_after(f"import fleetfoot_{room}")
    assert added == {f"fleetfoot_{room}"}


def test_the_topics_load_neither_pydantic_nor_nacl() -> None:
    loaded, _ = modules_after("import fleetfoot_protocol.topics")
    assert "fleetfoot_protocol.topics" in loaded
    assert not loaded & {"pydantic", "pydantic_core", "nacl"}


def test_the_courier_loads_paho_and_a_light_standard_library_only() -> None:
    loaded, added = modules_after("import fleetfoot_agent.courier.main")
    assert "paho" in loaded
    assert not loaded & {"asyncio", "nacl", "pydantic", "pydantic_core", "shutil", "sqlite3"}
    foreign = {name for name in added if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith(("fleetfoot_agent", "fleetfoot_protocol"))} == {
        "paho"
    }
    assert not {name for name in foreign if name.startswith("fleetfoot_agent.worker")}


COMMANDS = entry_points(group="fleetfoot.commands")


@pytest.mark.parametrize("command", sorted(COMMANDS.names))
def test_every_command_loads_to_a_function_that_registers_it(command: str) -> None:
    register = COMMANDS[command].load()
    assert list(signature(register).parameters) == ["subparsers"]


@pytest.mark.parametrize("script", ["fleetfoot", "fleetfoot-agent"])
def test_every_script_has_its_main(script: str) -> None:
    (found,) = entry_points(group="console_scripts", name=script)
    assert callable(found.load())


def dependencies(name: str, extras: set[str], seen: set[tuple[str, str]]) -> set[str]:
    """Names of all installed distributions that `name` with these extras asks for, however indirectly."""
    found: set[str] = set()
    for text in distribution(name).requires or []:
        wanted = Requirement(text)
        for extra in extras | {""}:
            key = (text, extra)
            if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
                continue
            seen.add(key)
            found |= {canonicalize_name(wanted.name)} | dependencies(wanted.name, wanted.extras, seen)
    return found


def test_the_constraints_pin_everything_that_is_installed_and_name_no_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin)] == []
    pinned = {pin.partition("==")[0] for pin in pins}
    assert dependencies("fleetfoot", {"dev"}, set()) - {"fleetfoot"} - pinned == set()


# Written in pieces, so that this file does not find itself.
FORBIDDEN: dict[str, re.Pattern[bytes]] = {
    "a package index": re.compile(
        rb"py" + rb"pi\.org|python" + rb"hosted|index" + rb"-url|https?://[^\s\"']*/simp" + rb"le\b", re.I
    ),
    "a path of somebody's machine": re.compile(
        rb"(?<![\w.~>})-])/(ro" + rb"ot|wo" + rb"rk|ho" + rb"me/[\w.-]+)/"
    ),
    "a private key": re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE" + rb" KEY|\"sec" + rb"ret\"\s*:\s*\"[0-9a-f]{64}", re.I
    ),
}


@pytest.mark.needs("git")
@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_tree_does_not_contain(what: str) -> None:
    # The owner of the files may be another user than the one who tests.
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    tracked = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [path for name in tracked if name and (path := ROOT / name).is_file()]
    assert Path(__file__).parent / "conftest.py" in files
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode(errors='replace')}"
        for path in files
        for match in FORBIDDEN[what].finditer(path.read_bytes())
    ]
    assert found == []


def test_the_wheel_holds_the_packages_and_the_guard_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        guard = archive.read("fleetfoot_agent/fleetfoot-guard")
    assert guard == (ROOT / "systemd" / "fleetfoot-guard").read_bytes()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {f"fleetfoot_{room}" for room in ROOMS}
