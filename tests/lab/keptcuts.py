"""Power cuts while what a version keeps outside its folder is set aside, or put back.

Every order is for a version that makes the configuration its own and then dies: so what the old version had
is set aside, changed, and put back each time, by root's units as they are shipped. Most cuts are at a moment
of one of these two; a mark on the disk says that it has come. Whatever the moment, one of these must hold of
the disk: the note of a whole copy stands beside the trial, or the paths are as the old version left them.
"""

import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.lab.device import UNIT
from tests.lab.powercuts import AFTER_BOOT, Cutter, Verdict
from tests.support.fleet import Bundle

from fleetfoot_agent.layout import target_of, version_name

#: What is kept: a file and a folder. A file is replaced at once, a folder in two steps.
FILE, FOLDER = "/var/lib/kiosk/kiosk.conf", "/var/lib/kiosk/state"
NAMES = ("a", "b", "c")
LINES = 100_000
OLD, NEW = "old\n" * LINES, "new\n" * LINES
#: What a start of the old version must find.
OWN = (hashlib.md5(OLD.encode() * 4).hexdigest(), "-", *NAMES)  # noqa: S324 - what md5sum says, to compare
#: Written beside, so that at any moment the file is the one or the other; then it dies.
CHANGES = f"""\
cd /var/lib/kiosk
yes new | head -n {LINES} >next && sync next && mv next kiosk.conf
cp kiosk.conf state/a; rm -f state/b; touch state/more
exit 3
"""
BAD_VERSION = "1.2.7"
#: What every start found, of which version.
SEEN = "/var/lib/kiosk/seen"
LOOKS = (
    "ExecStartPre=/bin/sh -c 'cd /var/lib/kiosk; echo $(readlink /opt/fleetfoot/kiosk/current)"
    " $(cat kiosk.conf state/* | md5sum) $(ls state) >>seen; sync seen'"
)

SAVED = "/var/lib/fleetfoot/saved/kiosk"
#: Marks on the disk, of each of the two acts in their order.
SET_ASIDE = (f"{SAVED}/copy.new", f"{SAVED}/copy.new/2", f"{SAVED}/copy.new/taken", f"{SAVED}/copy/taken")
PUT_BACK = (f"{FILE}.fleetfoot-back", f"{FOLDER}.fleetfoot-back", f"{FOLDER}.fleetfoot-back-old")
#: Seconds after the mark within which the power is cut, and how long one is waited for.
AFTER_MARK = 0.03
HUNT = 8.0


def place_of(bundle: Bundle) -> str:
    return target_of(version_name(bundle.release.version, bundle.digest))


def problem_with(file: Path, folder: Path) -> str:
    """In what these are not as the old version had them; empty if they are."""
    if not file.exists() or file.read_text() != OLD:
        return f"{file} is not the old one"
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else None
    if names != list(NAMES):
        return f"{folder} has {names}"
    changed = [name for name in NAMES if (folder / name).read_text() != OLD]
    return f"{changed} of {folder} are not the old ones" if changed else ""


class KeptCutter(Cutter):
    """Cuts of one host at these moments. kept: counts how often a disk was found how, for all cutters."""

    versions = ("1.0.0",)
    bad_version = BAD_VERSION
    hunts = 0.9

    def __init__(self, *arguments: Any, kept: Counter[str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = kept
        self._marks: list[str] = []
        self._under_way = self._owed = False

    def _prey(self) -> str:
        """Each mark once, in an order of chance, then all of them again."""
        if not self._marks:
            self._marks = [*SET_ASIDE, *PUT_BACK]
            self._random.shuffle(self._marks)
        return self._marks.pop()

    def _first_boot(self) -> None:
        super()._first_boot()
        host = self.host
        host.run("mkdir", "-p", FOLDER)
        for path in (FILE, *(f"{FOLDER}/{name}" for name in NAMES)):
            host.path(path).write_text(OLD)
        host.run("chown", "-R", "daemon:daemon", "/var/lib/kiosk")
        preserve = f'preserve = ["{FILE}", "{FOLDER}"]\n'
        self.device.configure(window=self._window, settle=0.1, component=preserve, service=LOOKS)
        host.run("systemctl", "restart", UNIT)
        host.run("sync")

    def _order(self, hunted: str | None) -> None:
        super()._order(None)

    def _await_moment(self, hunted: str | None) -> None:
        if hunted is None:
            super()._await_moment(None)
        else:
            self._await_mark(hunted, HUNT)

    def _again(self, recuts: int) -> bool:
        return self._under_way and super()._again(recuts)

    def _await_again(self) -> None:
        """After a boot what is owed is put back; what is not yet owed is set aside, and later put back."""
        marks = PUT_BACK if self._owed else SET_ASIDE + PUT_BACK
        self._await_mark(self._random.choice(marks), AFTER_BOOT)

    def _await_mark(self, name: str, seconds: float) -> None:
        """Until the mark is there, a moment more; one from an earlier order is no mark of this."""
        mark, end = self.host.path(name), time.monotonic() + seconds
        before = mark.stat().st_ino if mark.exists() else None
        while time.monotonic() < end:
            try:
                if mark.stat().st_ino != before:
                    break
            except FileNotFoundError:
                before = None
            time.sleep(0.0002)
        self._pass(AFTER_MARK)

    def judge_more(self, upper: Path, found: Verdict) -> None:
        """The owner's file is whole; the way back has all that was preserved, or needs nothing any more."""
        here = upper / FILE[1:]
        text = here.read_text()
        assert text in (OLD, NEW), f"{FILE} is torn: {len(text)} bytes"
        note = upper / SAVED[1:] / "copy/taken"
        owed = note.exists() and found.trial != "none"
        if owed:
            said = note.read_text().split()
            assert said == [place_of(self._old), place_of(self._ordered)], f"the copy is of {said}"
            problem = problem_with(note.parent / "1", note.parent / "2")
            assert not problem, f"the copy: {problem}"
        else:
            problem = problem_with(here, upper / FOLDER[1:])
            assert not problem, f"nothing is owed, and {problem} (trial {found.trial}, {found.record.state})"
        self._under_way, self._owed = found.record.work is not None, owed
        self._count(upper, owed=owed, changed=text.startswith("new"))

    def _count(self, upper: Path, *, owed: bool, changed: bool) -> None:
        saved, folder = upper / SAVED[1:], upper / FOLDER[1:]
        beside = (Path(f"{path}.fleetfoot-back") for path in (upper / FILE[1:], folder))
        found = {
            "copy begun": (saved / "copy.new").exists(),
            "put back owed": owed,
            "nothing owed": not owed,
            "file is the new one": changed,
            "put back begun": any(path.exists() for path in beside),
            "no folder": not folder.exists(),
        }
        with self._tally.lock:
            self._kept.update(what for what, is_so in found.items() if is_so)

    def _arrive(self) -> None:
        """At rest the old version runs, and no start of it has ever found anything but its own."""
        super()._arrive()
        host = self.host
        problem = problem_with(host.path(FILE), host.path(FOLDER))
        assert not problem, problem
        left = sorted(path.name for path in host.path("/var/lib/kiosk").glob("*fleetfoot-back*"))
        assert not left, f"{left} left beside what was put back"
        starts = [line.split() for line in host.path(SEEN).read_text().splitlines()]
        foreign = [start for start in starts if start[0] == place_of(self._old) and tuple(start[1:]) != OWN]
        assert not foreign, f"the old version has started with what is not its own: {foreign}"
