"""The console: one model, one feed, a stack of screens."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from fleetfoot_client.rows import DeviceRow, parse_list
from fleetfoot_client.session import READING
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_tui import dialogs, helping, pictures, underway
from fleetfoot_tui.asking import TIMEOUT, Asker, Nobody
from fleetfoot_tui.feed import Inbox
from fleetfoot_tui.head import Head, Health
from fleetfoot_tui.messages import Answered, Refused, Told
from fleetfoot_tui.model import Fleet
from fleetfoot_tui.room import Room
from fleetfoot_tui.screens import ROOMS
from fleetfoot_tui.screens.fleet import FleetRoom
from fleetfoot_tui.swift import Sweeper
from fleetfoot_tui.underway import Underway

_TICK = 0.1
#: Seconds that reading messages may take at a time, and between two such times while more is waiting: while
#: nobody types, and for a moment after each key, when answering comes first.
_BUDGET, _BREATH = 0.025, 0.01
_BUSY_BUDGET, _BUSY_BREATH = 0.004, 0.03
_MOMENT = 0.12
#: So many messages are read in one go; only of more it matters which come first.
_FEW = 100
#: Seconds between two questions how the manager is: usually, and after news of a rollout.
_ASK_STATUS, _ASK_AGAIN = 10.0, 2.0
_STATUS_TIMEOUT = 5.0


class Source(Protocol):
    """Where messages come from: an inbox, and whether it is still filled."""

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        ...

    @property
    def trouble(self) -> str:
        """What it refused, empty if nothing."""
        ...


class Console(App[None]):
    """`source` fills the inbox; `now` is a clock in unix seconds."""

    TITLE = "fleetfoot"
    COMMAND_PALETTE_BINDING = "colon"
    BINDINGS = [
        Binding("question_mark", "help", "Help", key_display="?", show=False, id="help"),
        Binding("s", "picture", "Picture", show=False, id="picture"),
        Binding("1", "room('fleet')", "Fleet", show=False, id="fleet"),
        Binding("2", "room('rollouts')", "Rollouts", show=False, id="rollouts"),
        Binding("3", "room('releases')", "Releases", show=False, id="releases"),
        Binding("4", "room('approvals')", "Approvals", show=False, id="approvals"),
        Binding("5", "room('events')", "Events", show=False, id="events"),
        Binding("6", "room('audit')", "Audit", show=False, id="audit"),
        Binding("7", "room('grid')", "Grid", show=False, id="grid"),
        Binding("q", "leave", "Quit", show=False, id="quit"),
    ]
    CSS = """
    Toast { max-width: 90%; padding: 0 1; }
    CommandPalette SearchIcon { display: none; }
    Input { background: $surface; }
    .bottom { dock: bottom; height: 1; margin-bottom: 1; }
    """

    def __init__(
        self,
        root: TrustRoot,
        inbox: Inbox,
        asker: Asker,
        *,
        source: Source | None = None,
        read_only: bool = False,
        operator: str = "",
        keys: Mapping[str, str] | None = None,
        theme: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.fleet = Fleet(root, now)
        self.now = now
        self._own = (dict(keys or {}), theme)
        self.operator = operator
        self.read_only = read_only
        #: How it turns, and who has paused it.
        self.engine = self.engine_note = ""
        #: Rollouts that wait for a person, as the manager says.
        self.waiting = 0
        self._way: tuple[bool, bool | None] = (False, None)
        self._inbox = inbox
        self._source = source
        self.asker = asker
        self.underway = Underway()
        self._asked = float("-inf")
        self._inventory_asked = False
        self._hurrying = False
        self._typed = float("-inf")
        self._sweeper = Sweeper()
        #: Whether time passes: whoever draws pictures calls `tick` and `every_second` by hand.
        self.by_itself = True
        #: Where pictures and exports are written.
        self.folder = Path.cwd()

    def on_mount(self) -> None:
        """The fleet comes first."""
        keys, theme = self._own
        self.set_keymap(keys)
        if theme:
            self.theme = theme
        self.push_screen(FleetRoom())
        if self.by_itself:
            self.set_interval(_TICK, self.tick)
        if self.by_itself:
            self.set_interval(1.0, self.every_second)

    @classmethod
    def binding_ids(cls) -> frozenset[str]:
        """The ids under which keys that every screen has can be bound anew."""
        return frozenset(one.id for one in cls.BINDINGS if isinstance(one, Binding) and one.id)

    # -- time

    def tick(self) -> None:
        """Take what has come, for a bounded time, and let the screen that is shown know."""
        busy = time.monotonic() - self._typed < _MOMENT
        room = self._shown
        watched = room.watched() if room is not None and len(self._inbox) > _FEW else ()
        first = [text for device in watched for text in self.fleet.topics_of(device, self._inbox.root)]
        for topic, payload, retained in self._inbox.drain(_BUSY_BUDGET if busy else _BUDGET, first):
            self.fleet.take(topic, payload, retained=retained)
        if len(self._inbox) and not self._hurrying:
            self._hurrying = True
            self.set_timer(_BUSY_BREATH if busy else _BREATH, self._hurry)
        if room is not None:
            changes = self.fleet.take_changes()
            if "rollouts" in changes.kinds:
                # Perhaps one waits for a person now, or no more.
                self._asked = min(self._asked, time.monotonic() - _ASK_STATUS + _ASK_AGAIN)
            room.notice(changes)

    async def on_event(self, event: events.Event) -> None:
        """Keys and clicks come before messages, for a moment."""
        if isinstance(event, events.Key | events.MouseEvent):
            self._typed = time.monotonic()
        await super().on_event(event)

    def _hurry(self) -> None:
        """More waits than there was time for: go on soon, with a breath for keys in between."""
        self._hurrying = False
        self.tick()

    def every_second(self) -> None:
        """Ages and countdowns; now and then, whether the manager's engine turns."""
        if not self.is_running:
            return
        if (now := (self.connected, self.fleet.manager)) != self._way:
            # What was known of the engine is of another time: ask at once where there is somebody to ask.
            self._way, self.engine, self.waiting, self._asked = now, "", 0, float("-inf")
            if self._shown is not None:
                self._shown.renew()
        self._sweeper.idle(self._typed)
        self.tell_head()
        if (room := self.room) is not None:
            room.second()
        if not self._inventory_asked:
            self._inventory_asked = True
            self.run_worker(self._read_inventory, thread=True, name="inventory")
        there = self.connected and self.fleet.manager is True
        if there and time.monotonic() - self._asked >= _ASK_STATUS:
            self._asked = time.monotonic()
            self.run_worker(self._ask_status, thread=True, name="status")

    @property
    def _shown(self) -> Room | None:
        """The screen that is shown, with no window over it. While the console ends there is none at all."""
        top = self.screen_stack[-1] if self.is_running and self.screen_stack else None
        return top if isinstance(top, Room) and top.prepared else None

    @property
    def room(self) -> Room | None:
        """The screen that is shown, perhaps below a window."""
        rooms = [one for one in self.screen_stack if isinstance(one, Room)]
        return rooms[-1] if rooms and rooms[-1].prepared else None

    @property
    def connected(self) -> bool:
        """Whether what is shown is kept up to date. A recording is what it is."""
        return self._source is None or self._source.connected

    @property
    def turning(self) -> bool:
        """Whether, as far as is known, a manager is there that does what time demands."""
        return self._source is None or (self.connected and self.fleet.manager is not False)

    # -- what the manager knows; the two below run on threads of their own

    def _ask_status(self) -> None:
        way, waiting, note = self._way, 0, ""
        try:
            result = self.asker.request("manager.status", timeout=_STATUS_TIMEOUT)
            engine = str(result.get("engine", ""))[:20]
            held, found = result.get("paused"), result.get("waiting")
            if isinstance(held, dict):
                note = f"by {held.get('by', '')}: {held.get('reason', '')}"[:80].rstrip(": ")
            waiting = len(found) if isinstance(found, list) else 0
        except FleetfootError as error:
            if error.code == "no_manager":
                return
            engine = "stuck" if error.code == "timeout" else ""
        self.call_from_thread(self._told_engine, way, engine, note, waiting)

    def _told_engine(self, way: tuple[bool, bool | None], engine: str, note: str, waiting: int) -> None:
        if way != self._way:
            return  # it was asked of a manager that has gone since
        self.engine, self.engine_note, self.waiting = engine, note, waiting
        self.tell_head()

    def _read_inventory(self) -> None:
        """Devices that never said anything are known to the manager alone, and so are keys."""
        after: str | None = None
        try:
            while True:
                page = self.asker.request("device.list", arguments={"after": after} if after else {})
                rows = parse_list(DeviceRow, page, "devices")
                keys = {str(d.get("id")): str(d.get("key", "")) for d in page["devices"]}
                self.call_from_thread(self._enrol, rows, keys)
                following = page.get("next")
                if not rows or not following or following == after:
                    return
                after = str(following)
        except FleetfootError:
            self._inventory_asked = self._asker_is_gone()

    def _asker_is_gone(self) -> bool:
        """Whether asking again would be of no use."""
        return isinstance(self.asker, Nobody)

    def _enrol(self, rows: list[DeviceRow], keys: dict[str, str]) -> None:
        for row in rows:
            try:
                key = bytes.fromhex(keys.get(row.id, ""))
            except ValueError:
                key = b""
            self.fleet.enrolled(row.id, row.group, key, row.labels)

    def ask(
        self,
        screen: Screen[Any],
        tag: str,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
    ) -> None:
        """Ask on a thread; `Answered` or `Refused` is posted to the screen.

        What became of an act is said even if its screen has been left.
        """
        given = dict(arguments or {})
        act = "" if verb in READING else underway.name_of(verb, given)
        if act and not self.may_begin(act):
            return

        def work() -> None:
            try:
                if act:
                    result = self.act(act, verb, given, revision=revision)
                else:
                    result = self.asker.request(verb, arguments=given, revision=revision, timeout=TIMEOUT)
            except FleetfootError as error:
                self.post_message(Told(screen, Refused(tag, error), act))
            else:
                self.post_message(Told(screen, Answered(tag, result), act))

        self.run_worker(work, thread=True, name=verb)

    def may_begin(self, act: str) -> bool:
        """Whether an act does not wait already; says so if it does, or has to wait for the broker."""
        if act in self.underway:
            self.notify(f"{act}: that waits for its answer already", severity="warning", markup=False)
            return False
        if not self.connected:
            self.notify(
                f"{act}: the broker is lost; it waits for it, {underway.PATIENCE:g} s at most",
                severity="warning", markup=False,
            )  # fmt: skip
        return True

    def act(
        self,
        name: str,
        verb: str,
        arguments: Mapping[str, Any],
        *,
        group: str = "*",
        revision: int | None = None,
    ) -> dict[str, Any]:
        """On a thread of its own: have an act done; the head says for how long it waits."""
        with self.underway.act(name):
            return self.asker.request(verb, group, arguments, revision=revision, timeout=underway.PATIENCE)

    def on_told(self, told: Told) -> None:
        """An answer, for the screen that asked; of an act, for the person, wherever they are by now."""
        if told.screen in self.screen_stack:
            told.screen.post_message(told.message)
        elif told.act and isinstance(told.message, Refused):
            self.show_error(told.message.error)
        elif told.act:
            self.notify(f"{told.act}: done", markup=False)

    def on_unmount(self) -> None:
        """Nobody waits for answers any more."""
        self.asker.give_up()

    # -- what is shown

    def tell_head(self) -> None:
        """Tell the head of the present screen where it is and how things are, below a window too."""
        room = self.room
        if room is None:
            return
        last = self._inbox.last
        health = Health(
            broker=self.connected,
            trouble=self._source.trouble if self._source is not None else "",
            ever=last is not None,
            waiting=self.waiting,
            acts=tuple(self.underway.waiting()),
            manager=self.fleet.manager,
            engine=self.engine,
            engine_note=self.engine_note,
            silence=None if last is None else time.monotonic() - last,
            dropped=self._inbox.dropped + self.fleet.refused,
            read_only=self.read_only,
            recording=self._source is None,
        )
        rooms = [one for one in self.screen_stack if isinstance(one, Room)]
        crumbs = ["fleetfoot", self.fleet.root.fleet, *(one.crumb for one in rooms)]
        for head in room.query(Head):
            head.tell(crumbs, health)

    def show_error(self, error: FleetfootError) -> None:
        """What went wrong, in a window."""
        self.push_screen(dialogs.Paper("That did not work", dialogs.error_text(error)))

    def back(self) -> None:
        """The screen before; the fleet is the first and stays."""
        if len([one for one in self.screen_stack if isinstance(one, Room)]) > 1:
            self.pop_screen()

    def action_room(self, name: str) -> None:
        """Go to one of the rooms; the fleet stays below it."""
        if not isinstance(self.screen, Room):
            return
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if name in ROOMS:
            self.push_screen(ROOMS[name]())

    def action_leave(self) -> None:
        """Quit, from the fleet; elsewhere it is the way back."""
        if len(self.screen_stack) > 2:
            self.back()
        else:
            self.exit()

    def action_help(self) -> None:
        """What the screen is for and which keys it has."""
        screen = self.screen
        if not isinstance(screen, Room):
            return
        text = helping.text(self, screen)
        self.push_screen(dialogs.Paper(f"Help: {screen.crumb}", text))

    def action_picture(self) -> None:
        """A picture of the screen, as SVG."""
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.now()))
        path = self.folder / f"fleetfoot-{moment}.svg"
        try:
            pictures.write(path, self.export_screenshot(title=f"fleetfoot {self.fleet.root.fleet}"))
        except OSError as error:
            self.notify(f"no picture: {path}: {error.strerror}", severity="error", markup=False)
        else:
            self.notify(f"picture in {path}", markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: rooms, themes, picture, quit."""
        for name in ("fleet", *ROOMS):
            yield SystemCommand(name.capitalize(), f"go to {name}", lambda n=name: self.action_room(n))
        yield SystemCommand("Theme", "choose the colours", self.action_change_theme)
        yield SystemCommand("Picture", "write the screen as SVG", self.action_picture)
        yield SystemCommand("Help", "keys of this screen", self.action_help)
        yield SystemCommand("Quit", "leave the console", self.exit)
