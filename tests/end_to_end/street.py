"""A town of many small groups, judged on the devices.

A *fussy* release starts and fails its health check while its device is ill (`Street.ill`).
"""

import json
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_protocol import times
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.states import Outcome
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Pace

QUICK = Pace(window=0.6, settle=0.1, restart_delay=0.05)
FUSSY = "1.4.0"
_GOOD_HEAD = "HTTP/1.0 200 OK"
_FUSSY_HEAD = "HTTP/1.0 {503 if os.path.exists(ILL) else 200} OK"
#: From a program inside its release to the folder of its device.
_ILL = 'ILL = os.path.realpath(__file__).rsplit("/opt/", 1)[0] + "/ill"\n'


class Street(Town):
    """Groups are named by their stories, devices after their groups: `waves-1`, `waves-2`, ..."""

    def prepare(self, *versions: str) -> None:
        """Start, and publish and bless these releases, made here where the scene has none."""
        self.open()
        self.digests: dict[str, str] = {}
        for version in versions:
            if not self.scene.bundle(version).exists():
                self._make(version)
            self.digests[version] = self.publish(version)

    def _make(self, version: str) -> None:
        tree = kiosk.write_tree(self.folder / "apps" / version, version)
        if version == FUSSY:
            program = tree / kiosk.ENTRYPOINT
            text = program.read_text()
            assert _GOOD_HEAD in text
            program.write_text(
                text.replace(_GOOD_HEAD, _FUSSY_HEAD).replace("VERSION =", f"{_ILL}VERSION =", 1)
            )
        self.scene.release(version, tree)

    def settle_in(self, **groups: int) -> None:
        """Add groups of so many devices, each running 1.0.0, and wait until the manager has heard of them."""
        for group, count in groups.items():
            self.add(*(f"{group}-{number}" for number in range(1, count + 1)), group=group, pace=QUICK)

        until(lambda: all(one.connected for one in self.hosted.values()), "everybody is connected")

        def heard() -> bool:
            listed = self.fleetfoot("device", "list")["devices"]
            known = {one["id"] for one in listed if one["online"] and kiosk.COMPONENT in one["components"]}
            return known >= set(self.devices)

        until(heard, "the manager has heard of everybody")

    def start(self, group: str, version: str, *options: str) -> str:
        """Start a rollout over one group; its id."""
        return self.rollout(version, *options, groups=(group,))

    def shown(self, rollout: str) -> dict[str, Any]:
        """`rollout show`."""
        return dict(self.fleetfoot("rollout", "show", rollout))

    def ends_as(self, rollout: str, state: str, **counts: int) -> dict[str, Any]:
        """Wait until the rollout is in this state, then demand these counts of its devices."""
        self.await_state(rollout, state)  # asking the manager again and again would be heard by everybody
        seen = self.shown(rollout)
        assert seen["state"] == state, seen
        if counts:
            assert seen["counts"] == counts, seen
        return seen

    def of(self, group: str) -> list[str]:
        """The devices of a group."""
        return [name for name, device in self.devices.items() if device.group == group]

    def leaves(self, device: str) -> None:
        """Take a device off the network, and wait until the manager knows."""
        self.hosted[device].disconnect()
        self.await_presence(device, "offline")
        show = ("device", "show", device)
        until(lambda: not self.fleetfoot(*show)["online"], f"{device} is known to be offline")

    def report(self, rollout: str) -> dict[str, Any]:
        """`report.json` of an ended rollout."""
        out = self.folder / "reports" / rollout
        self.fleetfoot("rollout", "report", rollout, "--out", str(out))
        return dict(json.loads((out / "report.json").read_text()))

    def ordered(self, group: str) -> Desired:
        """What the group's retained document says now."""
        until(lambda: group in self.witness.desired, f"the document of {group} is seen")
        return self.witness.desired[group]

    def withdraws(self, group: str, version: str) -> None:
        """Wait until the group's retained document withdraws this version and nothing else."""
        only = (self.digests[version],)
        until(lambda: self.ordered(group).withdrawn == only, f"{version} is withdrawn in {group}")

    # -- on the devices

    def ill(self, device: str, *, now: bool = True) -> None:
        """From now on a fussy release fails its check on this device, or no longer."""
        mark = self._folder(device) / "ill"
        mark.touch() if now else mark.unlink()

    def _folder(self, device: str) -> Path:
        return self.devices[device].config.install_root.parent

    def runs(self, device: str) -> str:
        """The version that the device's kiosk itself says it is."""
        return self.answer(device).removeprefix("kiosk ").strip()

    def run(self, **expected: str) -> None:
        """Wait until each device (with _ for -) really runs its version."""
        for name, version in expected.items():
            device = name.replace("_", "-")

            def there(device: str = device, version: str = version) -> bool:
                try:
                    return self.runs(device) == version
                except OSError:
                    return False  # it is being restarted

            until(there, f"{device} runs {version}", seconds=60)

    def moved_at(self, device: str) -> float:
        """When the device last changed what runs: when `current` was renamed into its place."""
        return os.lstat(self._folder(device) / "opt" / kiosk.COMPONENT / "current").st_ctime

    def has(self, device: str, version: str) -> bool:
        """Whether the whole tree of a version lies on the device."""
        return self._tree(device, version).is_dir()

    def unpacked_at(self, device: str, version: str) -> float:
        """When the whole tree of a version came to its place on the device."""
        return os.lstat(self._tree(device, version)).st_ctime

    def _tree(self, device: str, version: str) -> Path:
        name = f"{version}-{self.digests[version][:8]}"
        return self._folder(device) / "opt" / kiosk.COMPONENT / "versions" / name

    def obeys(self, device: str) -> None:
        """Wait until the device has answered its group's newest document."""

        def answered() -> bool:
            said = self.said(device).answered
            return said is not None and said.sequence >= self.ordered(self.devices[device].group).sequence

        until(answered, f"{device} has answered what stands now")

    def in_order(self, *devices: str, apart: float = 0.0) -> None:
        """Demand that each moved only so many seconds after the one before had proved itself."""
        gaps = [self.moved_at(late) - self._proved_at(early) for early, late in pairwise(devices)]
        assert all(gap >= apart for gap in gaps), (devices, gaps)

    def _proved_at(self, device: str) -> int:
        """When the device says that it ended its newest work well; never later than it really was."""
        last = self.said(device).outcomes[-1]
        assert last.outcome is Outcome.COMPLETED
        return times.from_text(last.at)

    def untouched(self, devices: Iterable[str], version: str) -> None:
        """Demand that these run 1.0.0 and never held a byte of that version."""
        for device in devices:
            assert self.runs(device) == "1.0.0"
            assert not self.has(device, version)
