"""What the worker must never forget, outside the components: its key, the trust root, the newest documents.

    <state>/worker/device.key      the device's own key, made once, 0600
    <state>/worker/root.json       the envelope of the newest trust root
    <state>/worker/docs/<name>     envelopes of the newest documents, which are also the floors of order
    <state>/worker/state.json      incarnation, counter, standing alarms, what became of the chain of roots
    <state>/worker/doing.json      crashes by input, so that one that crashes the worker is found out

Documents are kept as envelopes and verified again whenever they are read: a document whose signer has left
the trust root is gone with it.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, RootModel

from fleetfoot_agent import durable
from fleetfoot_agent.worker import rooting
from fleetfoot_protocol import dsse, keys, times, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Heartbeat, Probe, Release
from fleetfoot_protocol.errors import FleetfootError, FormError, TrustError
from fleetfoot_protocol.fields import Digest, Id, Line, Uint, Word
from fleetfoot_protocol.trust import TrustRoot

_ENVELOPE_CAP = dsse.MAX_ENVELOPE
_FORM_CAP = 64 * 1024
#: Counters are reserved in blocks, so that a counter costs a write only once in this many.
_BLOCK = 64
#: Steps of the trust root in one go, and the seconds of rest after which a new go may begin (section 3).
MAX_STEPS = trust.MAX_CHAIN
GO_SECONDS = 3600
#: Refused roots that are remembered.
_MAX_REFUSED_ROOTS = 16
#: Crashes on one input after which it is skipped (contract section 6, rule 17).
MAX_CRASHES = 3


class _State(BaseModel):
    """state.json."""

    incarnation: Word
    reserved: Uint
    alarms: tuple[Line, ...] = ()
    lost_events: Uint = 0
    read_root: Uint = 0
    go_from: Uint = 0
    go_at: Uint = 0
    refused_roots: tuple[Digest, ...] = ()
    floors: dict[Id, Uint] = {}


class _Crashed(RootModel[dict[Digest, Uint]]):
    """doing.json: how often the worker has died on an input."""


F = TypeVar("F", _State, _Crashed)


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """The device's key pair."""

    secret: bytes

    @property
    def public(self) -> bytes:
        return keys.public_of(self.secret)


def make_key(path: Path) -> DeviceKey:
    """Make the device's key at `path` (0600). Raises `FleetfootError` (exists_already)."""
    if path.exists():
        raise FleetfootError("exists_already", f"there is a device key at {path}")
    secret = keys.generate()
    form = {"kind": "fleetfoot-key", "public": keys.public_of(secret).hex(), "secret": secret.hex()}
    durable.write_file(path, json.dumps(form).encode() + b"\n", 0o600)
    return DeviceKey(secret)


def load_key(path: Path) -> DeviceKey:
    """Read the device's key. Raises `FleetfootError`: not there, unreadable, or readable by others."""
    try:
        found = os.stat(path)
        if found.st_mode & 0o077:
            raise FleetfootError("key_unsafe", f"{path} can be read by others than its owner")
        secret = bytes.fromhex(json.loads(path.read_text("utf-8"))["secret"])
    except FileNotFoundError as error:
        raise FleetfootError(
            "not_found", f"there is no device key at {path}", remedy="run 'fleetfoot-agent init' first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FleetfootError("key_unreadable", f"{path} is not a device key") from error
    if len(secret) != keys.SECRET_BYTES:
        raise FleetfootError("key_unreadable", f"{path} is not a device key")
    return DeviceKey(secret)


def load_root(folder: Path) -> TrustRoot:
    """The trust root of the worker with this `folder`. Changes nothing. Raises `FleetfootError`."""
    return rooting.find(folder).root


class Memory:
    """The worker's folder. One process at a time (the worker's lock).

    looking: only look, without the lock: nothing is made, tidied up or written.
    """

    def __init__(self, folder: Path, *, looking: bool = False) -> None:
        self.folder = folder
        self.docs = folder / "docs"
        for path in () if looking else (folder, self.docs):
            durable.make_folder(path, 0o700)
            durable.clear_temporary(path)
        self.key = load_key(folder / "device.key")
        found = rooting.find(folder)
        self.root = found.root
        #: Why a root in the folder does not count; empty if it does.
        self.root_ignored = found.ignored
        if not found.ignored and not (folder / "root.json").exists():
            durable.write_file(folder / "root.json", found.data, 0o600)
        state = self._load(_State, "state.json")
        self.incarnation = state.incarnation if state else os.urandom(6).hex()
        self._reserved = self._counter = state.reserved if state else 0
        self.alarms = set(state.alarms) if state else set()
        self.lost_events = state.lost_events if state else 0
        #: Version of the trust root under which all messages were read; 0 if none was yet.
        self.read_root = state.read_root if state else 0
        self._go_from = state.go_from if state else 0
        self._go_at = state.go_at if state else 0
        self._refused_roots = state.refused_roots if state else ()
        self._floors = dict(state.floors) if state else {}
        crashed = self._load(_Crashed, "doing.json")
        self._crashed = dict(crashed.root) if crashed else {}
        if state is None and not looking:
            self.save()

    def _load(self, kind: type[F], name: str) -> F | None:
        """A file of the worker's own; None for one that is missing, torn or foreign."""
        data = durable.read_regular(self.folder, name, _FORM_CAP)
        try:
            return None if data is None else kind.model_validate_json(data, strict=True)
        except ValueError:
            return None

    def save(self) -> None:
        """Write incarnation, counter block and alarms durably."""
        self._write_state(self._reserved)

    def _write_state(self, reserved: int) -> None:
        state = _State(
            incarnation=self.incarnation,
            reserved=reserved,
            alarms=tuple(sorted(self.alarms)),
            lost_events=self.lost_events,
            read_root=self.read_root,
            go_from=self._go_from,
            go_at=self._go_at,
            refused_roots=self._refused_roots,
            floors=self._floors,
        )
        durable.write_file(self.folder / "state.json", state.model_dump_json().encode(), 0o600)

    def floor(self, component: str) -> int:
        """The highest floor that the component ever had, for when its journal is lost."""
        return self._floors.get(component, 0)

    def raise_floor(self, component: str, floor: int) -> None:
        """Keep a floor, if it is higher than the one that is kept."""
        if floor > self.floor(component):
            self._floors[component] = floor
            self.save()

    def next_counter(self) -> int:
        """A number that was never used before in this incarnation. Raises `OSError`, and uses none up."""
        if self._counter >= self._reserved:
            self._write_state(self._counter + _BLOCK)
            self._reserved = self._counter + _BLOCK
        self._counter += 1
        return self._counter

    def set_alarm(self, code: Code, standing: bool) -> bool:
        """Let an alarm stand or fall. Returns whether that changed anything."""
        if (code in self.alarms) == standing:
            return False
        if standing:
            self.alarms.add(str(code))
        else:
            self.alarms.discard(str(code))
        self.save()
        return True

    # -- inputs that crash

    def begin_input(self, digest: str) -> bool:
        """Note that this input is about to be parsed. False if it has crashed the worker too often."""
        crashes = self._crashed.get(digest, 0)
        if crashes >= MAX_CRASHES:
            return False
        self._crashed[digest] = crashes + 1
        self._write_crashed()
        return True

    def end_input(self, digest: str) -> None:
        """This input was survived; noted on disk with the next one, or with the last."""
        self._crashed.pop(digest, None)

    def forgive_input(self, digest: str) -> None:
        """The run ends on this input, but through no fault of it."""
        self.end_input(digest)
        self._write_crashed()

    def end_inputs(self) -> None:
        """All inputs were dealt with, under the present trust root."""
        self._crashed = {}
        durable.remove_file(self.folder / "doing.json")
        if self.read_root != self.root.version:
            self.read_root = self.root.version
            self.save()

    def _write_crashed(self) -> None:
        data = _Crashed(self._crashed).model_dump_json().encode()
        durable.write_file(self.folder / "doing.json", data, 0o600)

    # -- trust root and documents

    def advance(self, data: bytes, now: int) -> TrustRoot:
        """Take the next root of the chain; `now` in unix seconds. Raises `TrustError`, keeps the present one.

        Bytes once refused stay refused, after a restart too, for as long as the present root is in force.
        """
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._refused_roots:
            raise TrustError(Code.UPGRADE_ROOT_REFUSED, "it was refused before")
        if self.steps_left(now) == 0:
            raise TrustError(Code.UPGRADE_ROOT_REFUSED, f"more than {MAX_STEPS} steps in one go")
        try:
            root = trust.advance_root(self.root, data)
        except TrustError:
            self._refused_roots = (*self._refused_roots, digest)[-_MAX_REFUSED_ROOTS:]
            self.save()
            raise
        if not self._going(now):
            self._go_from = self.root.version
        self._go_at, self._refused_roots = now, ()
        self.save()  # before the root, so that a crash in between cannot make the go longer
        rooting.keep_link(self.folder, root, data)
        if not self.root_ignored:  # a stranger's stays where it is, and is told, until somebody removes it
            durable.write_file(self.folder / "root.json", data, 0o600)
        self.root = root
        return root

    def _going(self, now: int) -> bool:
        return 0 <= now - self._go_at < GO_SECONDS and self._go_from > 0

    def steps_left(self, now: int) -> int:
        """How many more roots may be taken in this go."""
        taken = self.root.version - self._go_from if self._going(now) else 0
        return max(0, MAX_STEPS - taken)

    def roots_wanted(self, now: int) -> tuple[int, ...]:
        """The versions of the root to ask for: the next one, and more while they come."""
        taken = self.root.version - self._go_from if self._going(now) else 0
        many = min(self.steps_left(now), max(1, 4 * taken))
        return tuple(range(self.root.version + 1, self.root.version + 1 + many))

    def go_ends(self, now: int) -> int | None:
        """When roots may be asked for again, unix seconds; None if they may be now."""
        return None if self.steps_left(now) else self._go_at + GO_SECONDS

    def store(self, name: str, data: bytes) -> None:
        """Keep an envelope that was verified."""
        durable.write_file(self.docs / name, data, 0o600)

    def forget(self, name: str) -> None:
        """Drop an envelope."""
        durable.remove_file(self.docs / name)

    def envelope(self, name: str) -> bytes | None:
        """A kept envelope."""
        if not self.docs.is_dir():  # nothing has come yet, and who only looks makes no folder
            return None
        return durable.read_regular(self.docs, name, _ENVELOPE_CAP)

    def desired(self, scope: str, component: str) -> tuple[Desired, str] | None:
        """The newest document of a scope (`group` or `own`) with its digest, if it still verifies."""
        data = self.envelope(f"{scope}.{component}")
        if data is None:
            return None
        try:
            return trust.verify_desired(data, self.root), dsse.decode(data).digest
        except (TrustError, FormError):
            return None

    def heartbeat(self) -> Heartbeat | None:
        """The newest heartbeat, if it still verifies."""
        data = self.envelope("heartbeat")
        try:
            return trust.verify_heartbeat(data, self.root) if data is not None else None
        except (TrustError, FormError):
            return None

    def probe(self, component: str) -> Probe | None:
        """The newest probe of a component, if it still verifies."""
        data = self.envelope(f"probe.{component}")
        try:
            return trust.verify_probe(data, self.root) if data is not None else None
        except (TrustError, FormError):
            return None

    def release(self, digest: str) -> tuple[Release, bytes] | None:
        """A kept release manifest and its envelope, if it still verifies and has this digest."""
        data = self.envelope(f"manifest.{digest}")
        return None if data is None else verified_release(data, digest, self.root)

    def manifests(self) -> list[str]:
        """Digests of the kept manifests."""
        return [n.removeprefix("manifest.") for n in os.listdir(self.docs) if n.startswith("manifest.")]

    def arrived(self, name: str) -> float | None:
        """When a kept envelope was stored, by this device's clock: unix seconds."""
        try:
            return os.lstat(self.docs / name).st_mtime
        except FileNotFoundError:
            return None

    def rooted(self) -> float:
        """When the present trust root was stored, by this device's clock: unix seconds."""
        return os.lstat(self.folder / "root.json").st_mtime

    def time_floor(self) -> int:
        """No signed document that was accepted is from later than now: unix seconds, 0 if there is none.

        Of documents that still verify: a director that the root has removed does not hold the time either.
        """
        dated: list[Desired | Heartbeat] = []
        for name in os.listdir(self.docs) if self.docs.is_dir() else ():
            scope, _, component = name.partition(".")
            if scope in ("group", "own") and (found := self.desired(scope, component)):
                dated.append(found[0])
        if beat := self.heartbeat():
            dated.append(beat)
        return max((times.from_text(document.issued) for document in dated), default=0)


def verified_release(data: bytes, digest: str, root: TrustRoot) -> tuple[Release, bytes] | None:
    """Manifest and envelope, if `data` verifies and is the release named `digest`; else None."""
    try:
        release, found = trust.verify_release(data, root)
    except (TrustError, FormError):
        return None
    return (release, data) if found == digest else None
