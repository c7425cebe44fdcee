"""Devices in memory while the engine takes in what they say: read once, written once for each batch.

What is here is what the store will hold after the transaction. Whoever looks at the table itself calls
`flush` first; whoever changes it behind the registry's back calls `forget`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, inventory
from fleetfoot_manager.claims import Claims
from fleetfoot_manager.inventory import MAX_PAST_INCARNATIONS, DeviceEntry, Heard
from fleetfoot_manager.revocation import Bouncer
from fleetfoot_protocol.reports import Status

#: A fleet beyond it is read again and again while it speaks; each takes some 1 to 3 KiB.
MAX_DEVICES = 200_000
#: Of larger groups parsed statuses, some 8 KiB each, are not kept once they were looked at.
_PARSED = 20_000
#: From so many on, who was heard is written in the midst of a flood too.
_HEARD_AT_ONCE = 20_000


class Registry:
    """The devices heard of lately. One thread."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, DeviceEntry] = OrderedDict()
        self._changed: dict[str, DeviceEntry] = {}
        self._heard: dict[str, Heard] = {}
        #: Entries of a large group that somebody looks at in this transaction.
        self._lent: list[DeviceEntry] = []
        self.claims = Claims()
        #: Devices that may have an open act: more than there are does no harm, fewer would.
        self._acted: set[str] | None = None
        self.bouncer = Bouncer()

    def may_have_act(self, tx: Connection, device: str) -> bool:
        """Whether an answer of the device to an act on it may be awaited."""
        if self._acted is None:
            self._acted = acts.devices_with_open(tx)
        return device in self._acted

    def expect_act(self, tx: Connection, device: str, expected: bool) -> None:
        """Await an answer of the device, or do not any more."""
        if self.may_have_act(tx, device) != expected and self._acted is not None:
            (self._acted.add if expected else self._acted.discard)(device)

    def find(self, tx: Connection, device: str) -> DeviceEntry | None:
        """The device as it is by now, or None if it is not enrolled."""
        entry = self._entries.get(device)
        if entry is None:
            entry = inventory.find(tx, device)
            if entry is None:
                return None
            entry = self._known(entry)
            self._shrink()
        else:
            self._entries.move_to_end(device)
        return entry

    def expect(self, tx: Connection, names: Iterable[str]) -> None:
        """Read all of these that are not known yet in one go; who is not enrolled stays unknown."""
        missing = sorted({name for name in names if name not in self._entries})
        for entry in inventory.named(tx, missing):
            self._known(entry)
        self._shrink()

    def _known(self, entry: DeviceEntry) -> DeviceEntry:
        """Keep what was read; when it was heard is newer here than in the table."""
        heard = self._heard.get(entry.id)
        self._entries[entry.id] = entry if heard is None else replace(entry, heard=heard)
        return self._entries[entry.id]

    def members(self, tx: Connection, groups: Iterable[str]) -> list[DeviceEntry]:
        """All devices of these groups as they are by now, by id."""
        self.flush(tx)
        found = []
        for entry in inventory.of_groups(tx, groups):
            # The known entry has its status parsed already; what the table holds is the same by now.
            found.append(self._entries.setdefault(entry.id, entry))
        self._shrink()
        self._lent = found if len(found) > _PARSED else []
        return found

    def _shrink(self) -> None:
        while len(self._entries) > MAX_DEVICES and len(self._changed) < MAX_DEVICES:
            name, oldest = self._entries.popitem(last=False)
            if name in self._changed:
                self._entries[name] = oldest

    def _put(self, entry: DeviceEntry) -> None:
        self._entries[entry.id] = entry
        self._changed[entry.id] = entry

    def status(self, entry: DeviceEntry, status: Status, payload: bytes, sha256: str) -> DeviceEntry:
        """Keep a verified status that is news."""
        past = dict(entry.past)
        if entry.incarnation is not None and entry.incarnation != status.incarnation:
            past[entry.incarnation] = entry.counter
            past = dict(list(past.items())[-MAX_PAST_INCARNATIONS:])
        new = DeviceEntry(
            entry.id, entry.group, entry.key, entry.enrolled_labels, payload, sha256, status.incarnation,
            status.counter, past, entry.heard,
        )  # fmt: skip
        self._put(new)
        return new

    def presence(self, entry: DeviceEntry, online: bool) -> None:
        """Keep whether the device is connected."""
        if entry.heard.online != online:
            entry.heard.online = online
            self._heard[entry.id] = entry.heard

    def seen(self, entry: DeviceEntry, at: float) -> None:
        """Keep when the device was heard; an earlier time than the known one is no news."""
        heard = entry.heard
        if heard.last_seen is None or at > heard.last_seen:
            heard.last_seen = at
            self._heard[entry.id] = heard

    def flush(self, tx: Connection, *, hurried: bool = False) -> None:
        """Write what has changed into the transaction.

        hurried: not yet who was heard and when, for a while: nobody signs that, and a device that says more
        than once in a flood is written once.
        """
        for entry in self._lent:
            entry.forget_parsed()
        self._lent = []
        if self._changed:
            inventory.keep(tx, self._changed.values())
            self._changed = {}
        if self._heard and not (hurried and len(self._heard) < _HEARD_AT_ONCE):
            inventory.keep_heard(tx, self._heard)
            self._heard = {}
        self.claims.flush(tx)

    @property
    def behind(self) -> bool:
        """Whether something waits to be verified or written as soon as there is time."""
        return bool(self.claims) or bool(self._heard)

    def forget(self, device: str) -> None:
        """Read the device anew when it is asked for again."""
        self._entries.pop(device, None)
        self._changed.pop(device, None)

    def snapshot(self) -> Mapping[str, DeviceEntry]:
        """What has changed and is not written yet, to come back to."""
        return self._changed.copy()

    def restore(self, before: Mapping[str, DeviceEntry]) -> None:
        """Come back to a snapshot, whatever was changed, written or forgotten since."""
        self.bouncer.changed()
        self._entries.clear()
        self._entries.update(before)
        self._changed = dict(before)
