"""What the worker tells the world: the attested status and the events of the outbox."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.spool import WorkerSide
from fleetfoot_agent.spool.forms import MESSAGE_CAP
from fleetfoot_agent.worker import metrics, platform_facts
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.lifecycle import Say, line
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_protocol import dsse, strictjson, times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError, TrustError
from fleetfoot_protocol.events import Event, cloud_event
from fleetfoot_protocol.fields import CHANNELS_ADMITTED
from fleetfoot_protocol.reports import (
    Clock,
    ComponentStatus,
    Disk,
    PolicySummary,
    Preflight,
    Problem,
    Status,
)
from fleetfoot_protocol.states import Lifecycle, Verdict

log = logging.getLogger(__name__)

#: What this agent can be asked to do. Kept when `enabled` is false: then it answers `upgrade_disabled`.
CAPABILITIES = ("upgrade", "stage", "rollback")


#: Alarms about what runs, which stand until an upgrade has proved itself.
HEALED = (Code.UPGRADE_BOTH_BAD, Code.UPGRADE_JOURNAL_REBUILT)
#: Alarms about what is committed, which stand as long as a look finds it so.
WATCHED = (Code.UPGRADE_BOOT_FAILED, Code.UPGRADE_HEALTH_FAILED, Code.UPGRADE_TREE_MISMATCH)


def _essence(status: dict[str, Any]) -> dict[str, Any]:
    """What is worth a new status: all of it but what changes by itself."""
    return {k: v for k, v in status.items() if k not in ("counter", "at", "disk", "clock")}


def component_status(driver: Driver, preflight: Preflight | None = None) -> ComponentStatus:
    """One component as its driver knows it."""
    record, answer, plan = driver.record, driver.answer, driver.plan
    state, reason = record.state, ""
    if record.work is not None:
        reason = record.work.cause_text or str(record.work.act)
        if state is Lifecycle.STAGED and answer is not None and answer.verdict is Verdict.DEFERRED:
            reason = answer.reason
    elif answer is not None:
        reason = answer.reason
        if answer.verdict is Verdict.DEFERRED:
            state = Lifecycle.WAITING
    problem = record.last_error
    if driver.broken is not None:
        now = times.to_text(time.time())
        problem = Problem(code=driver.broken.code, message=line(driver.broken.message), at=now)
    goal = record.work.goal if record.work else plan.goal if plan else None
    rollout = record.work.rollout if record.work else plan.rollout if plan else None
    return ComponentStatus(
        state=state,
        reason=line(reason),
        running=record.run,
        previous=record.prev,
        floor=driver.floor,
        answered=answer,
        rollout=rollout,
        attempt=goal.attempt if goal else None,
        target=goal.digest if goal else None,
        refused=record.refused,
        last_error=problem,
        outcomes=record.outcomes,
        checks=driver.watched.checks if driver.watched and driver.watched.checks else record.checks,
        preflight=preflight,
    )


class Reporter:
    """Writes status and events into the spool, each only when there is something new to say."""

    def __init__(self, config: AgentConfig, memory: Memory, spool: WorkerSide) -> None:
        self._config = config
        self._memory = memory
        self._spool = spool
        self._last: dict[str, Any] | None = None

    def event(self, component: str | None, say: Say, rollout: str | None) -> None:
        """Put one event into the outbox, and let it raise or heal alarms. Never raises `OSError`.

        What had to be dropped for it is counted as lost, and so is an event that the disk refuses.
        """
        if say.event is Event.ALARM and say.code is not None:
            self._memory.alarms.add(str(say.code))
        if say.event is Event.UPGRADE_COMPLETED:
            self._memory.alarms -= {str(code) for code in HEALED}
        try:
            lost = self._append(component, say, rollout)
        except OSError as error:
            log.error("event lost event=%s cause=%a", say.event, str(error))
            lost = 1
        self._memory.lost_events += lost
        if lost or say.event in (Event.ALARM, Event.UPGRADE_COMPLETED):
            with suppress(OSError):  # it is in the next status all the same, and saved with the next counter
                self._memory.save()

    def _append(self, component: str | None, say: Say, rollout: str | None) -> int:
        fleet = self._memory.root.fleet
        event = cloud_event(
            say.event,
            source=f"/fleets/{fleet}/groups/{self._config.group}/devices/{self._config.device}",
            event_id=f"{self._memory.incarnation}-{self._memory.next_counter()}",
            time=times.to_text(time.time()),
            data={"device": self._config.device, "group": self._config.group, **say.data},
            component=component,
            rollout=rollout,
            code=say.code,
        )
        return self._spool.append_event(json.dumps(event, separators=(",", ":")).encode())

    def alarm(self, code: Code, message: str, component: str | None = None) -> None:
        """Tell an alarm, once while it stands in the status."""
        if code not in self._memory.alarms:
            self.event(component, Say(Event.ALARM, code, {"message": line(message)}), None)

    def status(
        self, drivers: dict[str, Driver], time_floor: int, preflights: Mapping[str, Preflight]
    ) -> None:
        """Write a new snapshot if anything but counter, time and free space has changed."""
        snapshot = self._snapshot(drivers, time_floor, preflights)
        essence = _essence(snapshot)
        if self._last is None:
            self._last = self._written()
        place = self._config.metrics_file
        if essence == self._last and (place is None or place.exists()):
            return
        status = Status.model_validate_json(json.dumps(snapshot), strict=True)
        if place is not None:
            _write_metrics(place, status)
        if essence == self._last:  # the owner wants metrics from now on, or their tmpfs is new
            return
        # The counter is taken last: a snapshot that fails to validate uses none up.
        status = status.model_copy(update={"counter": self._memory.next_counter()})
        payload = status.payload()
        attestation = dsse.attest(dsse.PayloadType.STATUS, payload, status.counter, self._memory.key.secret)
        self._spool.write_status(payload, attestation)
        self._last = essence

    def _written(self) -> dict[str, Any]:
        """The essence of the status in the spool, whoever wrote it before this run.

        Empty if its attestation does not belong to it: a worker that was killed between the two leaves a
        status that nobody would believe, so it is written anew.
        """
        out = self._spool.root / "out"
        status = durable.read_regular(out, "status.json", MESSAGE_CAP)
        attestation = durable.read_regular(out, "status.sig", MESSAGE_CAP)
        try:
            dsse.join_attestation(status or b"", attestation or b"")
            value = strictjson.loads(status or b"")
        except (FormError, TrustError):
            return {}
        return _essence(value) if isinstance(value, dict) else {}

    def _snapshot(
        self, drivers: dict[str, Driver], time_floor: int, preflights: Mapping[str, Preflight]
    ) -> dict[str, Any]:
        config, memory, policy = self._config, self._memory, self._config.policy
        status = Status(
            fleet=memory.root.fleet,
            group=config.group,
            device=config.device,
            incarnation=memory.incarnation,
            counter=1,
            boot_id=platform_facts.boot_id(),
            at=times.to_text(time.time()),
            agent=platform_facts.agent_version(),
            root=memory.root.version,
            platform=platform_facts.this_platform(config.hardware),
            labels=config.labels,
            capabilities=CAPABILITIES,
            policy=PolicySummary(
                enabled=policy.enabled,
                channels=tuple(c for c in policy.allowed_channels if c in CHANNELS_ADMITTED),  # type: ignore[misc]
                min_version=policy.min_version,
                pins=policy.pins,
            ),
            disk=Disk(free=platform_facts.free_bytes(config.install_root, config.spool)),
            clock=Clock(trusted=platform_facts.clock_trusted(), floor=times.to_text(time_floor)),
            lost_events=memory.lost_events,
            alarms=tuple(sorted(memory.alarms)),
            components={
                name: component_status(driver, preflights.get(name))
                for name, driver in sorted(drivers.items())
            },
        )
        return status.model_dump(mode="json", exclude_none=True)


def _write_metrics(place: Path, status: Status) -> None:
    try:
        metrics.write(place, status)
    except OSError as error:  # nothing of an upgrade depends on it
        log.warning("metrics not written file=%s cause=%a", place, str(error))
