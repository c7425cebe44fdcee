"""The owner's say on a device with two components and the shipped units: when, whether, and one at a time."""

import time
from collections.abc import Callable

import pytest
from tests.lab.conftest import Lab
from tests.lab.device import COMPONENT, CONFIG, UNIT, UNIT_FILE, Device
from tests.support.waiting import until

from fleetfoot_agent.worker.lifecycle import IN_FLIGHT
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Verdict

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

#: Long enough to see the other component wait for its end.
PROBATION = 2.0
POLICY = """\
enabled = true
consent = {consent}
windows = [{{start = "{start}", minutes = 60, timezone = "Europe/Berlin"}}]
"""
PANEL_CONFIG = """\
[components.panel]
unit = "panel.service"
window = 2.0
settle = 0.1
max_boot_attempts = 2
"""


class Panel(Device):
    """The other component of the same device."""

    component = "panel"
    unit_name = "panel.service"


def obey(device: Device, *, opens: str = "* * * * *", consent: str = "false") -> None:
    """Write the owner's policy."""
    policy = POLICY.format(start=opens, consent=consent)
    text = CONFIG.format(window=PROBATION, settle=0.1).replace("enabled = true\n", policy) + PANEL_CONFIG
    device.host.path("/etc/fleetfoot/agent.toml").write_text(text)


def answered(device: Device) -> tuple[Verdict, str] | None:
    told = device.told()
    if told is None or told.answered is None:
        return None
    return told.answered.verdict, told.answered.code


def await_answer(device: Device, verdict: Verdict, code: Code) -> None:
    try:
        until(lambda: answered(device) == (verdict, code), f"{device.component} answers {code}", seconds=60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{device.told()}\n{device.host.journal('-n', '80')}") from error


def agent(device: Device, *words: str, status: int = 0) -> str:
    said = device.host.run("sh", "-c", f"fleetfoot-agent {' '.join(words)}; echo $?").rstrip()
    assert said.endswith(f"\n{status}"), said
    return said


def test_two_components_wait_for_the_window_and_the_owner_and_then_for_each_other(
    start: Start, lab: Lab
) -> None:
    kiosk = start()
    host, panel = kiosk.host, Panel(kiosk.host, lab.shop)
    unit = UNIT_FILE.format(unit="", service="").replace(COMPONENT, "panel")
    host.path("/etc/systemd/system/panel.service").write_text(unit)
    closed = f"0 {time.gmtime(time.time() + 12 * 3600).tm_hour} * * *"
    obey(kiosk, opens=closed)
    for name in (UNIT, Panel.unit_name):
        host.run("fleetfoot-agent", "adopt", name, "--component", name.removesuffix(".service"))
    newer, first = lab.shop.release("1.1.0"), lab.shop.release("7.0.0", component="panel")
    old = kiosk.unit("InvocationID")
    kiosk.order(lab.shop.order(newer), newer)
    panel.order(lab.shop.order(first), first)
    # Nothing begins before the window opens, and who asks is told so.
    for device in (kiosk, panel):
        await_answer(device, Verdict.DEFERRED, Code.UPGRADE_WINDOW_CLOSED)
    assert "outside the maintenance window" in agent(kiosk, "check", COMPONENT, status=1)
    # It is open, and the owner is asked, who thinks about it.
    obey(kiosk, consent="true")
    agent(kiosk, "consent", "refuse", COMPONENT)
    await_answer(kiosk, Verdict.REJECTED, Code.UPGRADE_CONSENT_REFUSED)
    await_answer(panel, Verdict.DEFERRED, Code.UPGRADE_CONSENT_PENDING)
    agent(kiosk, "consent", "defer", COMPONENT)
    await_answer(kiosk, Verdict.DEFERRED, Code.UPGRADE_CONSENT_PENDING)
    assert (kiosk.unit("InvocationID"), panel.current) == (old, "")
    # Agreed to both, outside the window. When it opens, one is switched, and the other waits for its verdict.
    obey(kiosk, opens=closed, consent="true")
    for component in (COMPONENT, "panel"):
        agent(kiosk, "consent", "accept", component)
    for device in (kiosk, panel):
        await_answer(device, Verdict.DEFERRED, Code.UPGRADE_WINDOW_CLOSED)
    obey(kiosk, consent="true")
    host.path("/run/fleetfoot/wake/now").touch()
    await_answer(panel, Verdict.DEFERRED, Code.UPGRADE_LOCKED)
    record = kiosk.record()
    assert record is not None
    assert record.state in IN_FLIGHT
    kiosk.await_runs(newer)
    panel.await_runs(first)
    started = [int(d.unit("ExecMainStartTimestampMonotonic").popitem()[1]) for d in (kiosk, panel)]
    assert started[1] - started[0] >= PROBATION * 1e6
