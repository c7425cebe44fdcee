"""docs/states.md from the literal tables of transitions in `rollout.py` and `lifecycle.py`."""

from collections.abc import Iterable

from fleetfoot_agent.worker import lifecycle
from fleetfoot_manager import rollout
from fleetfoot_manager.rollout import Decision

_HEAD = """\
<!-- Written by `make docs` from rollout.py and lifecycle.py: change them there. -->

# States and transitions

Two literal tables decide what may happen: one for a rollout in the manager, one for an upgrade on a device.
An event that a state does not take is refused and changes nothing. What states mean to people stands in
[operators.md](operators.md) and [agent.md](agent.md).
"""


def _kind(kind: object) -> str:
    return f"Decide({kind})" if isinstance(kind, Decision) else getattr(kind, "__name__", str(kind))


def _lines(rows: Iterable[tuple[str, str, Iterable[str]]]) -> list[str]:
    table = ["| in | event | leads to |", "|---|---|---|"]
    return table + [f"| {state} | {event} | {', '.join(sorted(to))} |" for state, event, to in rows]


def _drawing(rows: Iterable[tuple[str, str, Iterable[str]]]) -> list[str]:
    """The same as a diagram, without what stays where it is; events between two states share a line."""
    edges: dict[tuple[str, str], list[str]] = {}
    for state, event, to in rows:
        for one in sorted(to):
            if one != state:
                edges.setdefault((state, one), []).append(event)
    drawn = [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    return ["```mermaid", "stateDiagram-v2", *drawn, "```"]


def states_page() -> str:
    """The page."""
    of_rollout = [
        (str(state), _kind(kind), [str(to) for to in step.leads_to])
        for state, steps in rollout.TRANSITIONS.items()
        for kind, step in steps.items()
    ]
    of_device = [
        (str(state), kind.__name__, [str(to) for to in leads])
        for (state, kind), leads in lifecycle.TRANSITIONS.items()
    ]
    parts = [_HEAD]
    for title, rows in (("A rollout", of_rollout), ("An upgrade on a device", of_device)):
        parts += ["\n".join([f"## {title}", "", *_drawing(rows), "", *_lines(rows), ""])]
    return "\n".join(parts)
