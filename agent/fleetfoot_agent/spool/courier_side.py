"""The courier's side of the spool: it owns in/ and reads out/ (contract section 6, rules 1 to 11)."""

import hashlib
import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fleetfoot_agent import durable
from fleetfoot_agent.spool import folders, forms, reserve
from fleetfoot_agent.spool.forms import BlobState, Link, WakeAt, Want

#: Unread messages of a slot that are kept besides the newest (rule 4).
FIRST_UNREAD = 7
_MAX_EVENTS = 2000
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Mark = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class OutMarks:
    """What the courier watches in out/. Two that differ mean that the worker wrote something."""

    want: Mark
    seen: Mark
    status: Mark
    attestation: Mark
    events: Mark
    wake_at: Mark


class CourierSide:
    """Everything the courier does in the spool at `root`; in/ is made if it is missing.

    Messages may be stored and blobs written on different threads. An OSError means that the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._in = root / "in"
        self._messages = self._in / "msg"
        self._blobs = self._in / "blob"
        self._lock = threading.Lock()
        for folder in (self._messages, self._blobs):
            durable.make_folder(folder)
        for folder in (self._in, self._messages, self._blobs, *self._slot_folders()):
            durable.clear_temporary(folder)
        reserve.keep(self._in)

    # Messages

    def store_message(self, slot: str, payload: bytes) -> bool:
        """Put a message into its slot; False if its bytes are there already or it is empty.

        One that is too large is cut to `MESSAGE_CUT` bytes, which the worker refuses by their number.

        When it returns, the message is on the disk. ValueError for what is not a slot.
        """
        if not forms.is_slot(slot):
            raise ValueError(f"{slot[:80]!a} is not a message slot")
        if not payload:
            return False
        payload = payload[: forms.MESSAGE_CUT]
        folder = self._messages / slot
        with self._lock:
            durable.make_folder(folder)
            seen = self._read_seen().get(slot, 0)
            stored = self._sound_arrivals(slot, seen)
            if any(self._read_message(slot, arrival) == payload for arrival in stored):
                return False
            # Also above what the worker has seen: the folder may have been emptied since.
            arrival = max([seen, *stored]) + 1
            durable.write_file(folder / forms.number_text(arrival), payload)
            unread = [number for number in [*stored, arrival] if number > seen]
            self._remove(slot, set(unread[FIRST_UNREAD:-1]) | {n for n in stored if n <= seen})
            return True

    def _sound_arrivals(self, slot: str, seen: int) -> list[int]:
        """The arrivals of a slot; numbers that the worker would not believe go, whoever wrote them."""
        stored = self._arrivals(slot)
        self._remove(slot, [number for number in stored if number > seen + forms.MAX_AHEAD])
        return [number for number in stored if number <= seen + forms.MAX_AHEAD]

    def drop_seen(self) -> None:
        """Delete the messages that the worker has dealt with, but the newest of each slot (rule 8)."""
        with self._lock:
            for slot, seen in self._read_seen().items():
                self._remove(slot, {number for number in self._arrivals(slot)[:-1] if number <= seen})

    def keep_slots(self, wanted: Callable[[str], bool]) -> None:
        """Delete the slots for which `wanted` answers no."""
        with self._lock:
            for folder in self._slot_folders():
                if not wanted(folder.name):
                    self._remove(folder.name, set(self._arrivals(folder.name)))
                    with suppress(OSError):
                        os.rmdir(folder)

    def _slot_folders(self) -> list[Path]:
        return [self._messages / name for name in os.listdir(self._messages) if forms.is_slot(name)]

    def _arrivals(self, slot: str) -> list[int]:
        try:
            names = os.listdir(self._messages / slot)
        except FileNotFoundError:
            return []
        return sorted(number for name in names if (number := forms.parse_number(name)) is not None)

    def _read_message(self, slot: str, arrival: int) -> bytes | None:
        return durable.read_regular(self._messages / slot, forms.number_text(arrival), forms.MESSAGE_CUT)

    def _remove(self, slot: str, arrivals: Collection[int]) -> None:
        for arrival in arrivals:
            folders.remove_all(self._messages / slot / forms.number_text(arrival))

    # Blobs

    def blob_path(self, sha256: str) -> Path:
        """Where the blob lies. ValueError for what is not a sha256."""
        if not forms.is_digest(sha256):
            raise ValueError(f"{sha256[:80]!a} is not a sha256")
        return self._blobs / sha256

    def blob_size(self, sha256: str) -> int:
        """Bytes of the blob that are here; 0 if it has not begun."""
        try:
            return os.lstat(self.blob_path(sha256)).st_size
        except FileNotFoundError:
            return 0

    def open_blob(self, sha256: str) -> BinaryIO:
        """The blob, unbuffered, to append to or to truncate; made if it is missing."""
        path = self.blob_path(sha256)
        fresh = not os.path.lexists(path)
        blob = os.fdopen(os.open(path, _APPEND, 0o644), "wb", buffering=0)
        try:
            if fresh:
                durable.fsync_dir(self._blobs)
        except OSError:
            blob.close()
            raise
        return blob

    def write_blob_state(self, sha256: str, state: BlobState) -> None:
        """Tell the worker how far the blob is."""
        path = self.blob_path(sha256)
        durable.write_file(path.with_name(f"{sha256}.json"), state.to_bytes())

    def end_blob(self, sha256: str, state: BlobState) -> None:
        """Tell the worker how the work on a blob ended, on a full disk from the reserve."""
        try:
            self.write_blob_state(sha256, state)
        except OSError as error:
            if not reserve.give(self._in, error):
                raise
            self.write_blob_state(sha256, state)
        else:
            if state.error is None:
                reserve.keep(self._in)

    def read_blob_state(self, sha256: str) -> BlobState | None:
        """What was last told about the blob, None if nothing."""
        data = durable.read_regular(self._blobs, f"{sha256}.json", forms.FORM_CAP)
        return None if data is None else forms.parse_blob_state(data)

    def keep_blobs(self, listed: Collection[str], keep: Collection[str] = ()) -> None:
        """Delete every blob that is not in `listed` or `keep`, and what is told of all not `listed`.

        How the last try at one that is merely kept has ended says nothing about the next one.
        """
        for name in os.listdir(self._blobs):
            if name in listed or name in keep or name.removesuffix(".json") in listed:
                continue
            if not name.startswith(durable.TEMP_PREFIX):
                folders.remove_all(self._blobs / name)

    # The link and the outbox

    def write_link(self, link: Link) -> None:
        """Tell the worker whether there is a session with the broker."""
        durable.write_file(self._in / "link.json", link.to_bytes())

    def read_acked(self) -> int:
        """The event up to which everything has been published; 0 if none."""
        data = durable.read_regular(self._in, "acked", forms.FORM_CAP)
        return (None if data is None else forms.parse_acked(data)) or 0

    def write_acked(self, number: int) -> None:
        """Tell the worker that the events up to `number` have been published and acknowledged."""
        durable.write_file(self._in / "acked", forms.acked_to_bytes(number))

    # What the worker wrote

    def marks(self) -> OutMarks:
        """The present state of out/, by six stats and without reading."""
        names = ("want.json", "seen.json", "status.json", "status.sig", "event", "wake_at.json")
        return OutMarks(*(folders.mark(self.root, "out", name) for name in names))

    def _read_out(self, *names: str, cap: int) -> bytes | None:
        return folders.read_in(self.root, "out", *names, cap=cap)

    def read_want(self) -> Want | None:
        """What the worker wants; None if it says nothing, or nothing intelligible."""
        data = self._read_out("want.json", cap=forms.FORM_CAP)
        return None if data is None else forms.parse_want(data)

    def _read_seen(self) -> dict[str, int]:
        data = self._read_out("seen.json", cap=forms.FORM_CAP)
        return (None if data is None else forms.parse_seen(data)) or {}

    def read_wake_at(self) -> WakeAt | None:
        """When the worker wants to be woken, None if it does not."""
        data = self._read_out("wake_at.json", cap=forms.FORM_CAP)
        return None if data is None else forms.parse_wake_at(data)

    def read_status(self) -> tuple[bytes, bytes] | None:
        """(status, attestation) that belong together by the status' sha256; None if there is no such pair.

        The two are written one after the other, so a reader may meet the new one of the one and the old one
        of the other: it looks again, a few times, then leaves it to the next change.
        """
        for _ in range(3):
            attestation = self._read_out("status.sig", cap=forms.MESSAGE_CAP)
            status = self._read_out("status.json", cap=forms.MESSAGE_CAP)
            if status is None or attestation is None:
                return None
            if forms.attested_digest(attestation) == hashlib.sha256(status).hexdigest():
                return status, attestation
        return None

    def event_numbers(self) -> list[int]:
        """The events that wait, in order."""
        names = folders.names_in(self.root, "out", "event", keep=lambda name: True, limit=_MAX_EVENTS)
        numbers = (forms.parse_number(name.removesuffix(".json")) for name in names if name.endswith(".json"))
        return sorted(number for number in numbers if number is not None)

    def read_event(self, number: int) -> bytes | None:
        """The bytes of an event, None if it is gone or to be ignored."""
        return self._read_out("event", f"{forms.number_text(number)}.json", cap=forms.MESSAGE_CAP)
