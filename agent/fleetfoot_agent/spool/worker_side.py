"""The worker's side of the spool: it owns out/ and reads in/ (contract section 6, rules 1 to 11).

What it reads was written by the courier, which faces the network: a file that is not of the form is
ignored as if it were not there, never an exception.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fleetfoot_agent import durable
from fleetfoot_agent.spool import folders, forms, reserve
from fleetfoot_agent.spool.events import EventFolder
from fleetfoot_agent.spool.forms import BlobState, Link, WakeAt, Want

# What an honest courier never reaches, and a hostile one may not exceed: numbers looked at in a slot, slots
# besides the known ones, and messages of a slot in one run (rule 4: the first seven unread and the newest).
_MAX_NAMES = 4096
_MAX_SLOTS = 320
_FIRST_UNREAD = 7


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """A message as it came. slot: where the courier put it, a hint; arrival: rising within the slot."""

    slot: str
    arrival: int
    payload: bytes
    unread: bool


class WorkerSide:
    """Everything the worker does in the spool at `root`; out/ is made if it is missing.

    For one thread. An OSError means that the disk refuses; what the courier wrote raises nothing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._out = root / "out"
        durable.make_folder(self._out)
        durable.clear_temporary(self._out)
        self._events = EventFolder(self._out / "event")
        self._seen = self._read_own_seen()

    # Messages

    def slots(self, known: Iterable[str] = ()) -> list[str]:
        """The slots that hold something, sorted: the `known` ones, and a bounded number of others."""
        found = {slot for slot in known if self._is_there(slot)}
        others = folders.names_in(self.root, "in", "msg", keep=forms.is_slot, limit=_MAX_SLOTS)
        return sorted({*found, *others})

    def _is_there(self, slot: str) -> bool:
        with folders.opened(self.root, "in", "msg", slot) as fd:
            return fd is not None

    def messages(self, slot: str) -> list[SpooledMessage]:
        """The messages of a slot, oldest first: the first unread ones and, read or not, the newest."""
        seen = self._seen.get(slot, 0)

        def believed(name: str) -> bool:
            number = forms.parse_number(name)
            return number is not None and number <= seen + forms.MAX_AHEAD

        names = folders.names_in(self.root, "in", "msg", slot, keep=believed, limit=_MAX_NAMES)
        arrivals = [int(name) for name in names]
        unread = [arrival for arrival in arrivals if arrival > seen]
        found = []
        for arrival in sorted({*unread[:_FIRST_UNREAD], *arrivals[-1:]}):
            name = forms.number_text(arrival)
            payload = folders.read_in(self.root, "in", "msg", slot, name, cap=forms.MESSAGE_CUT)
            if payload is not None:
                found.append(SpooledMessage(slot, arrival, payload, unread=arrival > seen))
        return found

    def mark_seen(self, arrivals: Mapping[str, int]) -> None:
        """Write that the messages of each slot up to its arrival have been dealt with; never takes back.

        Slots that are gone are forgotten.
        """
        seen = {slot: number for slot, number in self._seen.items() if self._is_there(slot)}
        for slot, arrival in arrivals.items():
            seen[slot] = max(seen.get(slot, 0), arrival)
        if seen != self._seen:
            self._put("seen.json", forms.seen_to_bytes(seen))
            self._seen = seen

    def _read_own_seen(self) -> dict[str, int]:
        data = durable.read_regular(self._out, "seen.json", forms.FORM_CAP)
        return (None if data is None else forms.parse_seen(data)) or {}

    # Blobs

    def write_want(self, want: Want, *, again: bool = False) -> None:
        """Say what the courier shall bring; everything else it deletes.

        An unchanged list is not written anew, unless `again`: that asks for blobs that failed once more.
        ValueError if the list is not of the form, because the courier would ignore it silently.
        """
        data = want.to_bytes()
        if forms.parse_want(data) != want or len(data) > forms.FORM_CAP:
            raise ValueError("the list of wants does not have the form of the spool")
        self._write("want.json", data, again=again)

    def want(self) -> Want:
        """What was last asked for."""
        data = durable.read_regular(self._out, "want.json", forms.FORM_CAP)
        return (None if data is None else forms.parse_want(data)) or Want()

    def blob_state(self, sha256: str) -> BlobState:
        """What the courier says of a blob; have=0 and no error if it says nothing.

        `have` is its word. Whether the blob is whole, `open_blob` tells.
        """
        if not forms.is_digest(sha256):
            return BlobState(0)
        data = folders.read_in(self.root, "in", "blob", f"{sha256}.json", cap=forms.FORM_CAP)
        return (None if data is None else forms.parse_blob_state(data)) or BlobState(0)

    def open_blob(self, sha256: str, length: int) -> BinaryIO | None:
        """The blob to read from, if a regular file of `length` bytes is there, else None.

        Only its length is checked here; its bytes may be anything and may change while being read.
        """
        if not forms.is_digest(sha256):
            return None
        fd = folders.open_file(self.root, "in", "blob", sha256)
        if fd is None:
            return None
        if os.fstat(fd).st_size != length:
            os.close(fd)
            return None
        return os.fdopen(fd, "rb")

    # The link and the outbox

    def link(self) -> Link | None:
        """What the courier says of its session with the broker; None if it says nothing intelligible."""
        data = folders.read_in(self.root, "in", "link.json", cap=forms.FORM_CAP)
        return None if data is None else forms.parse_link(data)

    def acked(self) -> int:
        """The event up to which the courier says that everything was published; 0 if none."""
        data = folders.read_in(self.root, "in", "acked", cap=forms.FORM_CAP)
        return (None if data is None else forms.parse_acked(data)) or 0

    def append_event(self, payload: bytes) -> int:
        """Put an event (CloudEvents JSON, <= 64 KiB) into the outbox.

        Returns how many events were dropped to make room, perhaps this one: the caller counts them in its
        status. ValueError if it is larger than a message may be.
        """
        return self._events.append(payload, self.acked())

    def drop_acked_events(self) -> int:
        """Delete the events that have been published. Returns how many."""
        return self._events.drop_until(self.acked())

    def write_status(self, status: bytes, attestation: bytes) -> None:
        """Publish a status. attestation: JSON whose `sha256` is that of `status`; ValueError otherwise."""
        if forms.attested_digest(attestation) != hashlib.sha256(status).hexdigest():
            raise ValueError("the attestation does not belong to the status")
        if max(len(status), len(attestation)) > forms.MESSAGE_CAP:
            raise ValueError(f"a status has at most {forms.MESSAGE_CAP} bytes")
        self._write("status.json", status)
        self._write("status.sig", attestation)

    def write_wake_at(self, wake_at: WakeAt | None) -> None:
        """Ask to be woken then; None takes the wish back."""
        if wake_at is not None:
            self._write("wake_at.json", wake_at.to_bytes())
            return
        with suppress(FileNotFoundError):
            os.unlink(self._out / "wake_at.json")
            durable.fsync_dir(self._out)

    def _write(self, name: str, data: bytes, *, again: bool = False) -> None:
        if again or durable.read_regular(self._out, name, len(data)) != data:
            self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        try:
            durable.write_file(self._out / name, data)
        except OSError as error:
            if not reserve.give(self._out, error):
                raise
            durable.write_file(self._out / name, data)
