"""What README and docs say is so: links lead somewhere, commands exist with their options, tables agree."""

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from fleetfoot_agent import arguments as agent_arguments
from fleetfoot_agent import config, settings
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.states import RIGHTS, Lifecycle, Outcome, Role, RolloutState

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    {
        str(path.relative_to(ROOT))
        for pattern in ("*.md", "docs/**/*.md", "*/README.md")
        for path in ROOT.glob(pattern)
        if not path.relative_to(ROOT).parts[0].startswith(".")
    }
)
_LINK = re.compile(r"\]\(([^)\s]+?)(?:\s+\"[^\"]*\")?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in _LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), f"{page}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text("utf-8")), f"{page}: {target}"


def commands_in(page: str) -> Iterator[list[str]]:
    """Every `fleetfoot ...` and `fleetfoot-agent ...` of a page, in words, without what a shell takes."""
    text = re.sub(r"\\\n\s*", " ", text_of(page))
    for line in re.findall(r"(?:^|[`\s(])(fleetfoot(?:-agent)? [^`\n]*)", text):
        line = re.split(r"\s#|\s?[|&;<>]|\.\.\.|2>", line)[0].rstrip(").,:")
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        if len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            yield words


def _parsers() -> dict[str, argparse.ArgumentParser]:
    client = argparse.ArgumentParser(prog="fleetfoot")
    subparsers = client.add_subparsers()
    for entry in entry_points(group="fleetfoot.commands"):
        entry.load()(subparsers)
    return {"fleetfoot": client, "fleetfoot-agent": agent_arguments.parser()}


PARSERS = _parsers()
#: Words of prose that follow the name of the program.
_PROSE = {"command", "commands", "is", "and", "finds", "puts"}


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def unknown(words: list[str]) -> str | None:
    """The first word of a command that its parser does not know; None if it knows them all."""
    parser = PARSERS[words[0]]
    rest = words[1:]
    while rest and (children := _children(parser)):
        names = rest[0].split("|")
        for name in names:
            if name not in children and re.fullmatch(r"[a-z][a-z-]*", name):
                return name
        if names[0] not in children:
            return None
        parser, rest = children[names[0]], rest[1:]
    known = {option for action in parser._actions for option in action.option_strings}
    return next((w for w in rest if re.fullmatch(r"-[a-z]|--[a-z-]+", w) and w not in known), None)


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_options(page: str) -> None:
    for words in commands_in(page):
        if words[1] not in _PROSE:
            assert unknown(words) is None, f"{page}: {' '.join(words)}"


def test_a_command_that_does_not_exist_would_be_found() -> None:
    assert unknown(["fleetfoot", "rollout", "undo"]) == "undo"
    assert unknown(["fleetfoot", "rollout", "start", "--wave"]) == "--wave"
    assert unknown(["fleetfoot-agent", "run", "--config", "x"]) is None
    assert unknown(["fleetfoot", "rollout", "pause|resume", "ID"]) is None


# -- tables


def rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = text_of(page).split(f"\n{heading}\n", 1)[1]
    lines = []
    for line in below.splitlines():
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            break
    return lines[2:]


def settings_of_the_code(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every setting that the parser asks for -> its default, `...` for a required one."""
    asked: dict[str, Any] = {}
    real = settings.Table.take

    def take(self: settings.Table, key: str, kind: Any, default: Any = ...) -> Any:
        where = re.sub(r"\[\d+\]", "", f"{self.where}.{key}").removeprefix("agent.toml.")
        asked[where.replace("components.x.", "components.ID.")] = default
        return real(self, key, kind, default)

    monkeypatch.setattr(settings.Table, "take", take)
    config.parse(
        """
        agent = {device = "d", group = "g"}
        broker = {url = "mqtt://h"}
        upgrade = {windows = [{start = "0 2 * * *"}]}
        [components.x]
        checks = [{kind = "http", url = "http://h"}, {kind = "exec", argv = ["true"]},
                  {kind = "tcp", address = "h:1"}, {kind = "file", path = "/x"}]
        """,
        Path("/etc/fleetfoot/agent.toml"),
    )
    sections = {"agent", "broker", "upgrade", "components"}
    return {name: default for name, default in asked.items() if name not in sections}


def settings_of_the_page() -> dict[str, str]:
    """Setting -> default, as docs/agent.md has them."""
    found = re.findall(
        r"^\| `((?:agent|broker|upgrade|components)\.[^`]+)` \| ([^|]+) \|", text_of("docs/agent.md"), re.M
    )
    return {name: default.strip() for name, default in found}


#: What the page says in words, because the code computes it.
_IN_WORDS = {
    "components.ID.settle": "a quarter of `window`",
    "components.ID.socket": "`<run_dir>/ID.sock`",
    "components.ID.checks.url": "required for `http`",
    "components.ID.checks.argv": "`exec` takes this or `unit`",
    "components.ID.checks.unit": "`exec` takes this or `argv`",
    "components.ID.checks.address": "required for `tcp`",
    "components.ID.checks.path": "required for `file`",
}


def _as_the_page_has_it(name: str, default: Any) -> str:
    if name in _IN_WORDS:
        return _IN_WORDS[name]
    if default is ...:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:g}`"
    if isinstance(default, list):
        return f"`{default}`".replace("'", '"')
    if isinstance(default, str):
        return f"`{default}`" if default.startswith("/") else f'`"{default}"`'
    return f"`{default}`"


def test_every_setting_of_the_agent_stands_in_its_page_with_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = settings_of_the_code(monkeypatch)
    assert len(code) > 25
    expected = {name: _as_the_page_has_it(name, default) for name, default in code.items()}
    assert settings_of_the_page() == expected


def test_the_ranges_of_the_page_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[float, float]] = {}
    real = settings.Table.number

    def number(self: settings.Table, key: str, default: float, low: float, high: float) -> float:
        asked[f"{self.where}.{key}".removeprefix("agent.toml.")] = (low, high)
        return real(self, key, default, low, high)

    monkeypatch.setattr(settings.Table, "number", number)
    settings_of_the_code(monkeypatch)
    page = dict(re.findall(r"^\| `([^`]+)` \| [^|]+ \| ([^|]+) \|", text_of("docs/agent.md"), re.M))
    for name, (low, high) in asked.items():
        shown = page[re.sub(r"\[\d+\]", "", name.replace("components.x", "components.ID"))]
        if high < 2**53 - 1 and name != "components.x.settle":
            assert shown.startswith(f"{low:g} to {high:g}"), name


def test_the_agents_page_explains_every_state_and_outcome() -> None:
    assert [row[0].strip("`") for row in rows("docs/agent.md", "## States")] == list(Lifecycle)
    outcomes = text_of("docs/agent.md").split("How work ends", 1)[1]
    assert re.findall(r"^\| `(\w+)`", outcomes, re.M)[: len(Outcome)] == list(Outcome)


def test_the_exit_codes_of_the_page_are_those_of_the_code() -> None:
    shown = [int(row[0]) for row in rows("docs/operators.md", "## Exit codes")]
    assert shown == [int(code) for code in Exit]


def test_the_roles_of_the_page_are_those_of_the_code() -> None:
    table = rows("docs/operators.md", "## Roles")
    head = re.search(r"^\| right \|(.+)\|$", text_of("docs/operators.md"), re.M)
    assert head is not None
    roles = [Role(cell.strip().strip("`")) for cell in head[1].split("|")]
    assert set(roles) == set(Role)
    found = {
        row[0]: {role for role, cell in zip(roles, row[1:], strict=True) if cell == "x"} for row in table
    }
    assert found == {str(right): set(holders) for right, holders in RIGHTS.items()}


def test_every_state_of_a_rollout_is_explained() -> None:
    assert {row[0].strip("`") for row in rows("docs/operators.md", "## States of a rollout")} == set(
        RolloutState
    )
