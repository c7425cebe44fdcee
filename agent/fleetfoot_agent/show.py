"""`fleetfoot-agent config show`: every setting as it counts, and who said so."""

import json
from typing import Any

from fleetfoot_agent.config import AgentConfig


def show(config: AgentConfig, *, origin: bool, as_json: bool) -> int:
    """Print the settings, sorted by name; with their origins if asked."""
    settings = sorted(config.settings.items())
    if as_json:
        found = {n: {"value": s.value, "origin": s.origin} if origin else s.value for n, s in settings}
        print(json.dumps(found))
        return 0
    for name, setting in settings:
        line = f"{name} = {_text(setting.value)}"
        print(f"{line:<56} # {setting.origin}" if origin else line)
    return 0


def _text(value: Any) -> str:
    """The value as TOML has it, which has no word for nothing."""
    if value is None:
        return "(none)"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)} = {_text(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
