"""Activation, probation and return: where `current` moves, and how a version proves itself or is left.

The order of the durable changes is contract section 7's: trial, swap, restart; at commit the trial goes
first, and `current` is looked at once more, because the guard may have gone back just before.
"""

import logging
import time
from contextlib import suppress

from fleetfoot_agent import durable, saved
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout, Trial, target_of, version_name
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.worker import hooks, platform_facts, probation, steps
from fleetfoot_agent.worker.journal import Journal
from fleetfoot_agent.worker.record import Work
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import CheckResult
from fleetfoot_protocol.resolve import Act

log = logging.getLogger(__name__)


class Proving:
    """The way of one component from staged to committed, or back. Holds the observation in progress."""

    def __init__(
        self, config: AgentConfig, component: Component, layout: Layout, journal: Journal, seam: Seam
    ) -> None:
        self._config = config
        self._component = component
        self._layout = layout
        self._journal = journal
        self._seam = seam
        self._observer: probation.Observer | None = None
        self._checks: tuple[CheckResult, ...] = ()

    def look_away(self) -> None:
        """Forget what was observed: another version will be looked at."""
        self._observer = None

    def staged(self, work: Work, may_activate: bool) -> bool:
        """Staged: a stage-only order is done; another is activated as soon as it may be."""
        if work.act is Act.STAGE:
            if not work.told:
                self._journal.step(steps.Told())
            return False
        if not may_activate:
            return False
        try:
            self._seam.demand()
        except FleetfootError as error:
            # Nothing was touched yet, and without a supervisor and the guard nothing could be proved.
            raise UpgradeError(Code.UPGRADE_IO_ERROR, error.message, remedy=error.remedy) from error
        self._demand_room()
        hooks.run(self._component, self._layout, "pre-activate", work)
        if self._root_preserves and work.old is not None:
            hooks.set_aside(self._component, self._layout, work)
        # One that an earlier attempt could not remove must not be taken for this one's.
        self._layout.remove_trial()
        run = self._journal.record.run
        self._journal.step(steps.Activate(version_name(run.version, run.digest) if run else None))
        return True

    def activate(self, work: Work) -> bool:
        """Activating: trial, swap, restart."""
        new, current = target_of(work.name), self._layout.read_current()
        trial = self._layout.read_trial()
        if current != new:
            if trial and trial.new == new and trial.exhausted:
                raise UpgradeError(Code.UPGRADE_BOOT_FAILED, "the guard went back before the worker looked")
            self._set_aside(work)
            self._grant_trial(work)
            self._layout.swap_current(new)
        self._restart()
        self._observer = None
        self._run_activated_hook(work)
        self._journal.step(steps.Swapped())
        return True

    def _run_activated_hook(self, work: Work) -> None:
        """The hook of a version that was started, unless its starts are used up: it is about what runs.

        One that the guard outran has failed for want of its version. Then probation tells.
        """
        new = target_of(work.name)
        if self._layout.read_current() != new:
            return
        try:
            hooks.run(self._component, self._layout, "post-activate", work)
        except UpgradeError:
            if self._layout.read_current() == new:
                raise
        if self._layout.read_current() != new and not self._root_preserves:
            saved.put_back_again(self._layout.folder)  # the hook may have changed what was put back meanwhile

    @property
    def _root_preserves(self) -> bool:
        """Whether units of root set aside and put back: there the worker reaches neither path nor copy."""
        return self._component.unit is not None and bool(self._component.preserve)

    def _demand_room(self) -> None:
        """What is to be set aside must fit, beside what the owner wants to stay free."""
        if not self._component.preserve or self._root_preserves:
            return
        needed = saved.size_of(self._component.preserve) + self._config.policy.disk_reserve
        if (free := platform_facts.free_bytes(self._layout.folder)) < needed:
            text = f"setting aside what it keeps needs {needed} bytes free, there are {free}"
            raise UpgradeError(Code.UPGRADE_DISK_FULL, text)

    def _set_aside(self, work: Work) -> None:
        """Keep what the old version keeps outside its folder, as it is when that has ended."""
        if not self._component.preserve or self._root_preserves or work.old is None:
            return
        try:
            self._seam.quiesce()
        except FleetfootError as error:
            log.warning("component=%s was not stopped cause=%a", self._component.name, error.message)
        saved.set_aside(
            self._layout.folder, target_of(work.old), target_of(work.name), self._component.preserve
        )

    def _grant_trial(self, work: Work) -> None:
        if work.old is not None:
            maximum = self._component.max_boot_attempts
            self._layout.write_trial(Trial(0, maximum, target_of(work.old), target_of(work.name)))

    def _restart(self) -> None:
        try:
            self._seam.restart()
        except FleetfootError as error:
            # The look that follows decides: the component may be up, or be started by the next boot.
            log.warning("component=%s restart failed cause=%a", self._component.name, error.message)

    def watch(self, work: Work) -> bool:
        """Probation: one look; commit or turn back when there is a verdict."""
        if self._layout.read_current() != target_of(work.name):
            self._observer = None
            text = f"it did not stay up in {self._component.max_boot_attempts} starts: the guard went back"
            self._journal.step(steps.Unwell(Code.UPGRADE_BOOT_FAILED, text))
            return True
        if work.old is not None and self._observer is None and self._layout.read_trial() is None:
            self._grant_trial(work)
        judgement = self._look(work.name)
        if judgement.verdict == "wait":
            return False
        self._observer = None
        if judgement.verdict == "unwell":
            self._journal.step(steps.Unwell(judgement.code, judgement.message, self._checks))
            return True
        self._layout.remove_trial()
        if self._layout.read_current() == target_of(work.name):  # the guard may have gone back just before
            self._journal.step(steps.Healthy(self._checks))
            self.end_trial()
            self.forget_saved()
            self._collect()
        return True

    def _look(self, name: str) -> probation.Judgement:
        now = time.monotonic()
        if self._observer is None:
            self._observer = probation.Observer(self._component.window, self._component.settle, now)
        seen = probation.look(self._component, self._seam, target_of(name))
        self._checks = seen.checks
        return self._observer.judge(seen, now)

    def go_back(self, work: Work) -> bool:
        """Rolling back: `current` leads back; what ran before is well once, or the window ends."""
        if work.old is None:
            self._uninstall(work)
            self.end_trial()
            self._journal.step(steps.WayBackProven())
            return True
        if self._observer is None:
            self._turn_round(work, work.old)
        # The way back has the same window, but needs to be well only once: it ran before.
        judgement = self._back_look(work.old)
        if judgement.verdict == "wait":
            return False
        self._observer = None
        self.end_trial()
        if judgement.verdict == "healthy":
            self._journal.step(steps.WayBackProven(self._checks))
        else:
            self._journal.step(steps.WayBackFailed(judgement.message))
        return True

    def _turn_round(self, work: Work, old: str) -> None:
        """Let `current` lead back and the previous version run, whatever was done of it already.

        What was set aside is put back before that version starts, by its supervisor or by a unit of root's,
        which does so while there is a trial: one that ended just before the guard went back is made up for.
        A start that was under way when `current` moved has gone past that unit, so there is another one.
        """
        target = target_of(old)
        overtaken = self._root_preserves and self._layout.read_current() != target
        if self._layout.read_current() != target:
            self._layout.swap_current(target)
        self._run_rollback_hook()
        lost = self._root_preserves and self._layout.read_trial() is None
        if lost:
            maximum = self._component.max_boot_attempts
            self._layout.write_trial(Trial(maximum, maximum, target, target_of(work.name)))
        started = None
        with suppress(FleetfootError):
            started = self._seam.state().target
        if started != target or lost or overtaken or saved.is_owed(self._layout.folder, target):
            self._restart()

    def _run_rollback_hook(self) -> None:
        work = self._journal.record.work
        try:
            if work is not None:
                hooks.run(self._component, self._layout, "on-rollback", work)
        except UpgradeError as error:  # going back always finishes
            log.error("component=%s code=%s cause=%a", self._component.name, error.code, error.message)

    def look(self) -> probation.Look:
        """How what is committed is now."""
        run = self._journal.record.run
        target = target_of(version_name(run.version, run.digest)) if run else ""
        return probation.look(self._component, self._seam, target)

    def forget_saved(self) -> None:
        """What was set aside for a version that proved itself, or was left, is of no use any more."""
        try:
            saved.forget(self._layout.folder)
        except OSError as error:
            log.warning("component=%s saved state stays cause=%a", self._component.name, str(error))

    def _back_look(self, old: str) -> probation.Judgement:
        now = time.monotonic()
        if self._observer is None:
            self._observer = probation.Observer(self._component.window, 0, now)
        seen = probation.look(self._component, self._seam, target_of(old))
        self._checks = seen.checks
        if seen.problem is None:
            return probation.Judgement("healthy")
        return self._observer.judge(seen, now)

    def _uninstall(self, work: Work) -> None:
        """The first version failed and there is nothing to go back to: the component is not installed."""
        if self._layout.read_current() == target_of(work.name):
            durable.remove_file(self._layout.current)
        self._restart()

    def end_trial(self) -> None:
        """Remove a trial that nothing is on, if there is one and the disk lets us.

        A guard that was counting when the trial was removed can bring it back: left alone it would count
        later starts of what is committed, and go back in the end.
        """
        try:
            if self._layout.read_trial() is not None:
                self._layout.remove_trial()
        except OSError as error:
            log.warning("component=%s trial stays cause=%a", self._component.name, str(error))

    def _collect(self) -> None:
        """Remove versions that are nobody's way back: beside run and prev the newest ones are kept."""
        record = self._journal.record
        keep = {version_name(i.version, i.digest) for i in (record.run, record.prev) if i}
        others = [name for name in self._layout.installed() if name not in keep]
        others.sort(key=lambda name: self._layout.tree(name).stat().st_mtime, reverse=True)
        spare = max(0, self._config.policy.keep_versions - (len(keep) - 1))
        try:
            removed = self._layout.collect(keep | set(others[:spare]))
        except (OSError, UpgradeError) as error:
            log.warning("component=%s collection failed cause=%a", self._component.name, str(error))
        else:
            if removed:
                log.info("component=%s removed=%s", self._component.name, ",".join(removed))
