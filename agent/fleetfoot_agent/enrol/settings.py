"""Changing some settings of agent.toml, and nothing else: comments and order stay, every other value too."""

import json
import re
import tomllib
from typing import Any

from fleetfoot_agent.settings import ConfigError

_TABLE = re.compile(r"\s*\[")


def with_broker(text: str, values: dict[str, str]) -> str:
    """`text` with these settings in its table `[broker]`.

    Raises ConfigError, if the file is written in a way that this cannot be done to.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.fullmatch(r"\s*\[broker\]\s*(#.*)?", line)), None)
    if start is None:
        lines += ["", "[broker]"]
        start = len(lines) - 1
    end = next((i for i in range(start + 1, len(lines)) if _TABLE.match(lines[i])), len(lines))
    table = lines[start + 1 : end]
    for name, value in values.items():
        new = f"{name} = {json.dumps(value, ensure_ascii=False)}"
        at = next((i for i, line in enumerate(table) if re.match(rf"\s*{name}\s*=", line)), None)
        if at is None:
            table.insert(_behind(table), new)
        else:
            table[at] = new
    after = "\n".join([*lines[: start + 1], *table, *lines[end:]]) + "\n"
    _demand_only(text, after, values)
    return after


def _behind(table: list[str]) -> int:
    """Behind the last line that says something."""
    return max((i + 1 for i, line in enumerate(table) if line.strip()), default=0)


def _demand_only(before: str, after: str, values: dict[str, str]) -> None:
    try:
        expected: dict[str, Any] = tomllib.loads(before)
        expected.setdefault("broker", {}).update(values)
        same = tomllib.loads(after) == expected
    except (tomllib.TOMLDecodeError, AttributeError):
        same = False
    if not same:
        named = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
        raise ConfigError(
            f"the table [broker] cannot be changed by a program; write into it yourself: {named}"
        )
