"""What widgets and threads tell the screens."""

from dataclasses import dataclass
from typing import Any

from textual.message import Message
from textual.screen import Screen

from fleetfoot_protocol.errors import FleetfootError


@dataclass
class Chosen(Message):
    """A row was chosen: enter, or a click on the row under the cursor."""

    key: str


@dataclass
class Pointed(Message):
    """The cursor went to another row."""

    key: str


@dataclass
class Answered(Message):
    """The manager's reply to a request that a screen has sent; `tag` is the screen's own word for it."""

    tag: str
    result: dict[str, Any]


@dataclass
class Refused(Message):
    """No reply, or a refusal."""

    tag: str
    error: FleetfootError


@dataclass
class Told(Message):
    """An answer on its way to the screen that asked; `act`: what it is called, empty for a question."""

    screen: Screen[Any]
    message: Answered | Refused
    act: str
