"""Answers to probes: what this device would do, were the probe's goal ordered for its group now.

    <state>/worker/preflight.json    the newest answer of each component

The very functions that decide about an order are asked: `resolve` with a document that has nothing but the
goal, then `allow` with this device's policy, platform, disk, windows and consent. Nothing is begun for it and
no artifact is fetched; of the release only its manifest is needed, which the courier brings over MQTT.

A probe is answered once. The answer says when it was given, and stays until another probe is answered.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import RootModel

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.spool import ManifestWant
from fleetfoot_agent.worker import owner, planning
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.intake import Refusal
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Clock
from fleetfoot_agent.worker.record import Work
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Probe, Release
from fleetfoot_protocol.fields import Id
from fleetfoot_protocol.reports import Preflight
from fleetfoot_protocol.resolve import Act, Device, Plan, Why, resolve
from fleetfoot_protocol.states import Verdict

log = logging.getLogger(__name__)

ANSWERS = "preflight.json"
_CAP = 64 * 1024
_MAX_REASON = 256


class _Answers(RootModel[dict[Id, Preflight]]):
    """preflight.json."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What would come of it."""

    verdict: Verdict
    code: Code | None = None
    reason: str = ""


class Preflights:
    """The answers of one device. `wants`: manifests without which a probe cannot be answered."""

    def __init__(self, config: AgentConfig, memory: Memory) -> None:
        self.wants: tuple[ManifestWant, ...] = ()
        self._config = config
        self._memory = memory
        self._answers = self._load()

    @property
    def answers(self) -> Mapping[str, Preflight]:
        """component -> the newest answer."""
        return self._answers

    def look(self, drivers: Mapping[str, Driver], clock: Clock, refusals: Iterable[Refusal]) -> None:
        """Answer every probe that has not expired and was not answered yet, as far as that is possible.

        refusals: what was refused since; a manifest among them is the answer.
        """
        wants: list[ManifestWant] = []
        refused = {refusal.slot: refusal for refusal in refusals}
        fresh: dict[str, Preflight] = {}
        for name, driver in drivers.items():
            probe = self._memory.probe(name)
            known = self._answers.get(name)
            if probe is None or clock.past(probe.expires) or (known and known.id == probe.id):
                continue
            found = self._judge(name, driver, probe, clock, refused.get(f"manifest.{probe.goal.digest}"))
            if found is None:
                wants.append(ManifestWant(name, probe.goal.digest))
                continue
            log.info(
                "probe=%s component=%s verdict=%s code=%s", probe.id, name, found.verdict, found.code or "-"
            )
            fresh[name] = Preflight(
                id=probe.id,
                digest=probe.goal.digest,
                verdict=found.verdict,
                code=str(found.code or ""),
                reason=found.reason[:_MAX_REASON],
                at=times.to_text(clock.now),
            )
        self.wants = tuple(wants)
        if fresh:
            self._answers = {**self._answers, **fresh}
            self._save()

    def _judge(
        self, name: str, driver: Driver, probe: Probe, clock: Clock, refusal: Refusal | None
    ) -> Judgement | None:
        """The answer; None as long as the manifest is missing without which there is none."""
        if driver.broken is not None:
            return Judgement(Verdict.REJECTED, driver.broken.upgrade_code, driver.broken.message)
        plan = self._plan(name, driver, probe, clock)
        if plan.act is not Act.INSTALL:
            verdict = {Act.REJECT: Verdict.REJECTED, Act.DEFER: Verdict.DEFERRED}.get(plan.act)
            if plan.why is Why.PINNED:
                text = "this device obeys a document of its own"
                return Judgement(Verdict.REJECTED, Code.UPGRADE_PINNED, text)
            return Judgement(verdict or Verdict.ACCEPTED, plan.code, str(plan.why))
        if not self._config.policy.enabled:
            return Judgement(Verdict.REJECTED, Code.UPGRADE_DISABLED, "upgrades are disabled on this device")
        tree = version_name(probe.goal.version, probe.goal.digest)
        found = driver.release_of(Work(act=Act.INSTALL, goal=probe.goal, name=tree))
        if found is not None:
            return self._permission(name, driver, plan, found[0], clock)
        return None if refusal is None else Judgement(Verdict.REJECTED, refusal.code, refusal.message)

    def _plan(self, name: str, driver: Driver, probe: Probe, clock: Clock) -> Plan:
        """What `resolve` would say to the goal as the group's baseline.

        What the group withdrew is not looked at: starting a release again lifts that. A document of this
        device's own that stands would decide instead of the group's.
        """
        config, record = self._config, driver.record
        found = {scope: self._memory.desired(scope, name) for scope in ("group", "own")}
        documents = {
            scope: pair[0] for scope, pair in found.items() if pair and not clock.past(pair[0].expires)
        }
        own, group = documents.get("own"), documents.get("group")
        device = Device(config.device, config.labels, record.run, record.prev, record.refused, driver.floor)
        asked = Desired(
            fleet=probe.fleet,
            group=probe.group,
            component=name,
            epoch=self._memory.root.epoch,
            sequence=1,
            issued=probe.issued,
            expires=probe.expires,
            baseline=probe.goal,
            hold=group.hold if group else False,
        )
        plan = resolve(asked, None, device)
        if own is not None and not own.released and plan.why is not Why.CURRENT:
            return Plan(Act.STAY, Why.PINNED)
        return plan

    def _permission(self, name: str, driver: Driver, plan: Plan, release: Release, clock: Clock) -> Judgement:
        goal = plan.goal
        if goal is None or (release.component, release.version, release.counter) != (
            name,
            goal.version,
            goal.counter,
        ):
            text = "the manifest is of another version than asked about"
            return Judgement(Verdict.REJECTED, Code.UPGRADE_RELEASE_MISMATCH, text)
        staged = driver.layout.is_installed(version_name(goal.version, goal.digest))
        here = owner.circumstances(self._config, name, plan, clock.now, clock.floor, note=False)
        found = planning.permission(self._config, driver.record, plan, release, staged=staged, here=here)
        if found.verdict == "proceed":
            return Judgement(Verdict.ACCEPTED, None, str(plan.why))
        if found.verdict == "reject":
            return Judgement(Verdict.REJECTED, found.code, found.reason)
        return Judgement(Verdict.DEFERRED, found.code, here.explain(found))

    # -- kept between runs

    def _load(self) -> dict[str, Preflight]:
        data = durable.read_regular(self._memory.folder, ANSWERS, _CAP)
        try:
            found = {} if data is None else _Answers.model_validate_json(data, strict=True).root
        except ValueError:
            return {}  # torn or foreign: the probe is answered again
        return {name: answer for name, answer in found.items() if name in self._config.components}

    def _save(self) -> None:
        """An answer that the disk refuses is told all the same, and given anew by the next run."""
        form = {name: answer.model_dump(mode="json") for name, answer in self._answers.items()}
        try:
            durable.write_file(self._memory.folder / ANSWERS, json.dumps(form).encode(), 0o600)
        except OSError as error:
            log.warning("the answer to a probe is not kept cause=%a", str(error))
