"""The small windows over a screen: confirm, ask for words, help, what went wrong."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from fleetfoot_protocol.codes import TABLE, Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.look import safe

#: Above this many devices a destructive act is confirmed by typing what it is done to.
TYPED_ABOVE = 20
#: Columns of a name and of the value behind it, which hangs where it is long.
_NAME, _VALUE = 12, 54

_CSS = """
{name} {{ align: center middle; }}
{name} > Vertical {{
    width: 72; max-width: 95%; height: auto; max-height: 95%; padding: 0 2;
    border: round $accent; background: $surface;
}}
{name} Horizontal {{ height: auto; margin-top: 1; }}
{name} Button {{ margin-right: 2; min-width: 12; }}
{name} Input {{ background: $boost; }}
{name} Input:focus {{ background: $primary 40%; }}
{name} VerticalScroll {{ height: auto; max-height: 78vh; }}
"""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a person is about to do, in the words of the window that asks for it.

    `facts`: name and value, among them count, version and group. `typed`: what must be typed, empty where
    a key suffices.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    verb: str
    typed: str = ""


def must_type(count: int, group: str) -> str:
    """What must be typed for so many devices."""
    return group if count > TYPED_ABOVE else ""


class Confirm(ModalScreen[bool]):
    """Asks before something that cannot be taken back. The answer that does nothing has the focus."""

    CSS = _CSS.format(name="Confirm")
    BINDINGS = [Binding("escape", "no", "No"), Binding("y", "yes", "Yes"), Binding("n", "no", "No")]

    def __init__(self, deed: Deed) -> None:
        super().__init__()
        self._deed = deed

    def compose(self) -> ComposeResult:
        """Title, facts, perhaps a field, two buttons."""
        deed = self._deed
        width = max((len(name) for name, _ in deed.facts), default=0)
        lines = [f"{name.ljust(width)}  {safe(value)}" for name, value in deed.facts]
        with Vertical():
            yield Label(Text(deed.title, "bold"))
            yield Static(Text("\n".join(lines)), markup=False)
            if deed.typed:
                yield Label(Text(f"Type {deed.typed} and press enter"))
                yield Input(compact=True)
            with Horizontal():
                yield Button("No, go back", id="no", compact=True)
                if not deed.typed:
                    yield Button(f"y  {deed.verb}", id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        """Focus the field, else the way back."""
        self.query_one(Input if self._deed.typed else "#no").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A letter typed into the field is no answer."""
        return not (self._deed.typed and action == "yes")

    def action_yes(self) -> None:
        """Do it."""
        self.dismiss(True)

    def action_no(self) -> None:
        """Do nothing."""
        self.dismiss(False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Either button."""
        self.dismiss(event.button.id == "yes")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Done only if it is the very name."""
        if event.value == self._deed.typed:
            self.dismiss(True)
        else:
            self.query_one(Input).value = ""
            self.notify(
                f"that was not {self._deed.typed}: nothing was done", severity="warning", markup=False
            )


@dataclass(frozen=True, slots=True)
class Field:
    """One thing to be asked for."""

    name: str
    label: str
    value: str = ""
    hint: str = ""


class Ask(ModalScreen[dict[str, str] | None]):
    """Asks for words; enter goes on to the next field and, from the last, ends."""

    CSS = _CSS.format(name="Ask")
    BINDINGS = [Binding("escape", "leave", "Leave")]

    def __init__(self, title: str, fields: Sequence[Field], *, about: Sequence[str] = ()) -> None:
        super().__init__()
        self._title, self._fields, self._about = title, fields, about

    def compose(self) -> ComposeResult:
        """Title and fields."""
        with Vertical():
            yield Label(Text(self._title, "bold"))
            if self._about:
                yield Static(Text("\n".join(safe(line) for line in self._about)), markup=False)
            for field in self._fields:
                yield Label(Text(field.label))
                yield Input(field.value, placeholder=field.hint, id=field.name, compact=True)
            yield Label(Text("enter: go on   esc: leave", "dim"))

    def action_leave(self) -> None:
        """Nothing was said."""
        self.dismiss(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The next field, or the end."""
        inputs = list(self.query(Input))
        place = inputs.index(event.input)
        if place + 1 < len(inputs):
            inputs[place + 1].focus()
        else:
            self.dismiss({str(one.id): one.value.strip() for one in inputs})


class Paper(ModalScreen[None]):
    """Something to read: help, an error, a whole entry. Any of esc, enter, q closes it."""

    CSS = _CSS.format(name="Paper")
    BINDINGS = [Binding("escape,enter,q,question_mark", "leave", "Close")]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Title and text, scrolled where it is long."""
        with Vertical():
            yield Label(Text(safe(self._title), "bold"))
            with VerticalScroll():
                yield Static(self._text, markup=False)
            yield Label(Text("esc: close", "dim"))

    def on_mount(self) -> None:
        """The text can be scrolled with the keys."""
        self.query_one(VerticalScroll).focus()

    def action_leave(self) -> None:
        """Close."""
        self.dismiss(None)


def error_text(error: FleetfootError) -> Text:
    """Code, cause and remedy."""
    return explained(error.code, error.message, error.remedy)


def explained(code: str, message: str = "", remedy: str = "") -> Text:
    """A code with its cause and remedy; those of the contract's table where none is given."""
    known = TABLE.get(Code(code)) if code in set(Code) else None
    cause = message or (known.meaning if known else "")
    do = remedy or (known.remedy if known else "")
    pairs = [("code", code), ("cause", cause), ("what to do", do)]
    return Text("\n").join(
        Text.assemble((f"{name:{_NAME}}", "dim"), f"\n{' ' * _NAME}".join(textwrap.wrap(safe(value), _VALUE)))
        for name, value in pairs
        if value
    )
