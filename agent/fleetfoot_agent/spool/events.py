"""out/event/: the worker's events in order, bounded (contract section 6, rule 10).

When there is no room, what says least goes first: events that tell of progress, then the others, then
outcomes and alarms; of the same weight the oldest.
"""

import json
import os
import time
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.spool import forms

MAX_FILES = 1000
MAX_BYTES = 4 * 1024 * 1024

#: CloudEvents `type` (VOCABULARY: events of a device) -> weight; what is not listed weighs `_OTHER`.
_PROGRESS, _OTHER, _OUTCOME = range(3)
_WEIGHTS: dict[str, int] = {
    "dev.fleetfoot.upgrade_started": _PROGRESS,
    "dev.fleetfoot.upgrade_downloaded": _PROGRESS,
    "dev.fleetfoot.upgrade_verified": _PROGRESS,
    "dev.fleetfoot.upgrade_staged": _PROGRESS,
    "dev.fleetfoot.upgrade_activated": _PROGRESS,
    "dev.fleetfoot.upgrade_health_check": _PROGRESS,
    "dev.fleetfoot.upgrade_completed": _OUTCOME,
    "dev.fleetfoot.upgrade_rolled_back": _OUTCOME,
    "dev.fleetfoot.upgrade_rejected": _OUTCOME,
    "dev.fleetfoot.upgrade_download_failed": _OUTCOME,
    "dev.fleetfoot.upgrade_verify_failed": _OUTCOME,
    "dev.fleetfoot.upgrade_install_failed": _OUTCOME,
    "dev.fleetfoot.upgrade_healthcheck_failed": _OUTCOME,
    "dev.fleetfoot.upgrade_rollback_failed": _OUTCOME,
    "dev.fleetfoot.alarm": _OUTCOME,
}

# What the courier may say it has published; more is a lie that would exhaust the 20 digits.
_BELIEVED = 10**19


def weight(payload: bytes) -> int:
    """How much an event says: 0 progress, 1 other, 2 outcome or alarm."""
    try:
        kind = json.loads(payload)["type"]
        return _WEIGHTS.get(kind, _OTHER)
    except (ValueError, KeyError, TypeError, RecursionError):
        return _OTHER


class EventFolder:
    """The folder, and what is known of the events in it: their sizes, and their weights once these matter."""

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        durable.make_folder(folder)
        durable.clear_temporary(folder)
        self._sizes = self._scan()
        self._weights: dict[int, int] = {}

    def append(self, payload: bytes, acked: int) -> int:
        """Write an event behind all others. Returns how many had to go for it, perhaps itself."""
        if len(payload) > forms.MESSAGE_CAP:
            raise ValueError(f"an event has at most {forms.MESSAGE_CAP} bytes")
        number = self._next(acked)
        self._sizes[number] = len(payload)
        self._weights[number] = weight(payload)
        losers = self._losers()
        for loser in losers:
            self._forget(loser)
        if number not in losers:
            durable.write_file(self._path(number), payload)
        return len(losers)

    def drop_until(self, acked: int) -> int:
        """Delete the events up to `acked`. Returns how many there were."""
        done = [number for number in self._sizes if number <= acked]
        for number in done:
            self._forget(number)
        if done:
            durable.fsync_dir(self._folder)
        return len(done)

    def _next(self, acked: int) -> int:
        # Unix milliseconds keep the numbers rising even when the spool was emptied under a living courier.
        believed = acked if acked < _BELIEVED else 0
        return max(max(self._sizes, default=0) + 1, believed + 1, time.time_ns() // 1_000_000)

    def _losers(self) -> list[int]:
        files, size = len(self._sizes), sum(self._sizes.values())
        losers: list[int] = []
        if files <= self._max_files and size <= self._max_bytes:
            return losers
        for number in sorted(self._sizes, key=lambda number: (self._weight_of(number), number)):
            if files <= self._max_files and size <= self._max_bytes:
                break
            losers.append(number)
            files, size = files - 1, size - self._sizes[number]
        return losers

    def _weight_of(self, number: int) -> int:
        if number not in self._weights:
            name = self._path(number).name
            self._weights[number] = weight(durable.read_regular(self._folder, name, forms.MESSAGE_CAP) or b"")
        return self._weights[number]

    def _forget(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        del self._sizes[number]
        self._weights.pop(number, None)

    def _scan(self) -> dict[int, int]:
        sizes = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                number = forms.parse_number(entry.name.removesuffix(".json"))
                if number is not None and entry.name.endswith(".json"):
                    sizes[number] = entry.stat(follow_symlinks=False).st_size
        return sizes

    def _path(self, number: int) -> Path:
        return self._folder / f"{forms.number_text(number)}.json"
