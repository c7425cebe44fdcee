"""The filter line, and the orders of the fleet's table: pure functions over devices.

    text          regular expression over id, group, link, platform, version, state, code, alarms, labels
    !text         devices that it does not match
    -l key=value  devices with that label; -l key: with any value of it
    -f letters    fuzzy: the letters of it in their order, in the id
    target:1.2.0  devices that should run that version; !target: the others

Several parts must all hold.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from fleetfoot_tui.device import Device, search_text
from fleetfoot_tui.model import Fleet

Holds = Callable[[Device], bool]


class FilterError(ValueError):
    """What is wrong with a filter, for the person who types it."""


def parse(text: str, fleet: Fleet) -> Holds | None:
    """The filter as a function, None for an empty one. FilterError if it cannot be understood."""
    try:
        words = shlex.split(text, posix=True) if "'" in text or '"' in text else text.split()
    except ValueError:
        raise FilterError("a quotation is not closed") from None
    parts: list[Holds] = []
    while words:
        word = words.pop(0)
        inverse = len(word) > 1 and word.startswith("!")
        bare = word[1:] if inverse else word
        if bare in ("-l", "-f"):
            if not words:
                raise FilterError(f"{bare} what?")
            part = (_label if bare == "-l" else _fuzzy)(words.pop(0))
        elif bare.startswith("target:"):
            part = _target(bare.removeprefix("target:"), fleet)
        else:
            part = _regex(bare)
        parts.append(_not(part) if inverse else part)
    if not parts:
        return None
    return lambda device: all(part(device) for part in parts)


def _not(part: Holds) -> Holds:
    return lambda device: not part(device)


def _regex(text: str) -> Holds:
    lowered = text.casefold()
    if re.fullmatch(r"[\w=/ -]+", lowered):
        return lambda device: lowered in search_text(device)
    try:
        search = re.compile(text, re.IGNORECASE).search
    except re.error as error:
        raise FilterError(f"no regular expression: {error}") from None
    return lambda device: search(search_text(device)) is not None


def _label(text: str) -> Holds:
    key, equals, value = text.partition("=")

    def holds(device: Device) -> bool:
        found = device.said.labels.get(key, device.labels.get(key))
        return found is not None and (not equals or found == value)

    return holds


def _fuzzy(text: str) -> Holds:
    letters = text.casefold()

    def holds(device: Device) -> bool:
        rest = iter(device.id)
        return all(letter in rest for letter in letters)

    return holds


def _target(version: str, fleet: Fleet) -> Holds:
    return lambda device: fleet.target(device) == version


@dataclass(frozen=True, slots=True)
class Order:
    """A way to sort: its name, what it sorts by before the id, and whether that changes while one looks."""

    name: str
    key: Callable[[Device], Any] | None
    moves: bool


ORDERS: tuple[Order, ...] = (
    Order("device", None, False),
    Order("group", attrgetter("group"), False),
    Order("state", attrgetter("badness"), True),
    Order("version", attrgetter("version"), True),
    Order("seen", attrgetter("seen"), True),
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What of the fleet is shown, and how: all that a person has set."""

    filter: str = ""
    group: str = ""
    faults: bool = False
    order: int = 0
    reverse: bool = False

    @property
    def moves(self) -> bool:
        """Whether a change of a device can change who is shown, and where."""
        return bool(self.filter) or self.faults or ORDERS[self.order].moves


def chosen(fleet: Fleet, sight: Sight) -> list[str]:
    """Ids of the devices to show, in their order. FilterError."""
    holds = parse(sight.filter, fleet)
    found = fleet.by_id()
    if sight.faults:
        found = [fleet.devices[name] for name in sorted(fleet.faulty)]
    if sight.group:
        found = [device for device in found if device.group == sight.group]
    if holds is not None:
        found = [device for device in found if holds(device)]
    key = ORDERS[sight.order].key
    if key is not None:
        # They stand by id, and what is equal stays so.
        found = sorted(found, key=key)
    ids = [device.id for device in found]
    if sight.reverse:
        ids.reverse()
    return ids


def ranged(keys: list[str], first: str, last: str) -> list[str]:
    """All keys from one to the other, whichever comes first; the last alone where the first is not shown."""
    if first not in keys or last not in keys:
        return [last] if last in keys else []
    start, end = sorted((keys.index(first), keys.index(last)))
    return keys[start : end + 1]
