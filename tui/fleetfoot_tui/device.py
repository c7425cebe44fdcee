"""A device as the console knows it: what it said, what the manager told of it, what a line shows. Pure."""

from dataclasses import dataclass, field

from fleetfoot_protocol import times
from fleetfoot_tui.facts import ComponentFacts, DeviceFacts

_NOTHING = ComponentFacts("")


@dataclass(slots=True)
class Device:
    """A device as it is known here.

    heard: when something of it came by itself, by the console's clock; 0 if all of it was retained.
    """

    id: str
    group: str
    online: bool | None = None
    heard: float = 0.0
    said: DeviceFacts = field(default_factory=DeviceFacts)
    status: bytes = b""
    attestation: bytes = b""
    percent: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    key: bytes = b""
    verdict: str = ""
    counted: tuple[str, ...] = ()
    #: Whether a person should look at it; and how badly, 0 for an alarm: the least is the worst.
    faulty: bool = False
    badness: int = 99
    searched: str = ""
    dated: float | None = None
    topics: tuple[str, ...] = ()

    @property
    def seen(self) -> float:
        """When it was last heard of: else by its own clock, in its status. 0 if never."""
        if self.heard:
            return self.heard
        if self.dated is None:
            self.dated = _moment(self.said.at)
        return self.dated

    @property
    def version(self) -> str:
        """What its main component runs."""
        return self.main.version

    @property
    def main(self) -> ComponentFacts:
        """The component that is shown in one line: the worst."""
        return self.said.components[0] if self.said.components else _NOTHING

    @property
    def state(self) -> str:
        """What its badge shows."""
        return self.main.state if self.said.components else ""


def search_text(device: Device) -> str:
    """Everything that a filter looks for in a device, made once for each status."""
    if not device.searched:
        said, one = device.said, device.main
        link = "online" if device.online else "offline"
        labels = [f"{k}={v}" for k, v in {**device.labels, **said.labels}.items()]
        parts = [device.id, device.group, link, said.platform, one.name, one.version, one.state, one.code]
        device.searched = " ".join([*parts, one.error, *said.alarms, *labels]).casefold()
    return device.searched


def _moment(text: str) -> float:
    try:
        return float(times.from_text(text))
    except ValueError:
        return 0.0
