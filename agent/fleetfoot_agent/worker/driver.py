"""One component's upgrade, carried out: each state of the record tells the driver what to do next.

Every method ends in `_step`, which journals durably before anything further is done. Whatever raises
inside becomes a `Fail` with its code before activation, and a return after it.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pydantic import ValidationError

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig, Component
from fleetfoot_agent.layout import Layout, Trial, disk_error, target_of, version_name
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.spool import BlobWant, ManifestWant
from fleetfoot_agent.worker import extract, lifecycle, planning, probation
from fleetfoot_agent.worker.lifecycle import BEFORE_ACTIVATION, Record, Say, StepEvent, Work
from fleetfoot_agent.worker.memory import Memory, verified_release
from fleetfoot_agent.worker.planning import Planned
from fleetfoot_protocol import dsse, strictjson
from fleetfoot_protocol.allow import Permission
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Artifact, Goal, Release
from fleetfoot_protocol.errors import FleetfootError, FormError, UpgradeError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Answer, Installed
from fleetfoot_protocol.resolve import Act, Plan, Why
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.tree import tree_sha256

log = logging.getLogger(__name__)

_JOURNAL_CAP = 256 * 1024
_L = Lifecycle


class Blobs(Protocol):
    """Where the bytes of a release come from: the spool, or a bundle at hand."""

    def open(self, sha256: str, length: int) -> BinaryIO | None:
        """The blob, if it is there with exactly this length."""

    def failure(self, sha256: str) -> tuple[Code, str] | None:
        """Why it will not come, if somebody has given it up."""


@dataclass(slots=True)
class Wants:
    """What the driver waits for: manifest or blobs, and the unix second at which it should look again."""

    manifest: ManifestWant | None = None
    blobs: tuple[BlobWant, ...] = ()
    at: int | None = None


class Driver:
    """Drives one component. One worker run uses it from one thread."""

    def __init__(
        self,
        config: AgentConfig,
        component: Component,
        memory: Memory,
        blobs: Blobs,
        seam: Seam,
        say: Callable[[str, Say, str | None], None],
        *,
        changed: Callable[[], None] = lambda: None,
        by_hand: bool = False,
    ) -> None:
        self.component = component
        self.layout = Layout(config.install_root, component.name)
        self.wants = Wants()
        self.answer: Answer | None = None
        self.plan: Plan | None = None
        self.broken: UpgradeError | None = None
        self.rebuilt = False
        self._config = config
        self._memory = memory
        self._blobs = blobs
        self._seam = seam
        self._say = say
        self._changed = changed
        self._by_hand = by_hand
        self._observer: probation.Observer | None = None
        self.record = Record()
        try:
            self.layout.create()
            self.layout.clean()
            self.record = self._load()
        except UpgradeError as error:
            self.broken = error
        except OSError as error:
            self.broken = disk_error(error, "reading the install folder")

    # -- the journal

    def _load(self) -> Record:
        current = self.layout.read_current()
        data = durable.read_regular(self.layout.folder, self.layout.journal.name, _JOURNAL_CAP)
        if data is None and current is None:
            return Record()
        try:
            strictjson.loads(data or b"", limit=_JOURNAL_CAP)
            record = Record.model_validate_json(data or b"", strict=True)
        except (ValidationError, FormError, ValueError):
            return self._rebuild(current)
        runs = target_of(version_name(record.run.version, record.run.digest)) if record.run else None
        if record.state not in lifecycle.IN_FLIGHT and current != runs:
            return self._rebuild(current)
        return record

    def _rebuild(self, current: str | None) -> Record:
        """A record from what lies on the disk: what `current` leads to runs; a trial is judged anew."""
        self.rebuilt = True
        log.warning("journal rebuilt component=%s current=%s", self.component.name, current)
        if current is None:
            return self._journal(Record())
        trial = self.layout.read_trial()
        names = (trial.old, trial.new) if trial and current in (trial.old, trial.new) else (current, current)
        old, new = (self._installed(target) for target in names)
        if trial is None or old is None or new is None or names[0] == names[1]:
            run = self._installed(current)
            if run is None:
                text = f"nothing verifiable says what {current} is"
                raise UpgradeError(Code.UPGRADE_LAYOUT_REFUSED, text)
            return self._journal(Record(run=run[0], floor=run[1].min_counter))
        goal = Goal(version=new[0].version, counter=new[0].counter, digest=new[0].digest, length=0)
        work = Work(
            act=Act.INSTALL,
            goal=goal,
            name=trial.new.removeprefix("versions/"),
            old=trial.old.removeprefix("versions/"),
            min_counter=new[1].min_counter,
        )
        # Probation notices by itself that the guard has gone back already.
        record = Record(state=_L.PROBATION, run=old[0], floor=old[1].min_counter, work=work)
        return self._journal(record)

    def _installed(self, target: str) -> tuple[Installed, Release] | None:
        """What the verified release beside a tree says that it is."""
        name = target.removeprefix("versions/")
        data = self.layout.envelope(name)
        if data is None:
            return None
        try:
            digest = dsse.decode(data).digest
        except FormError:
            return None
        found = verified_release(data, digest, self._memory.root)
        if found is None or version_name(found[0].version, digest) != name:
            return None
        release = found[0]
        return Installed(version=release.version, counter=release.counter, digest=digest), release

    def _journal(self, record: Record) -> Record:
        durable.write_file(
            self.layout.journal, strictjson.dumps(record.model_dump(mode="json", exclude_none=True))
        )
        return record

    def _step(self, event: StepEvent) -> None:
        before = self.record.state
        record, said = lifecycle.step(self.record, event, int(time.time()))
        self.record = self._journal(record)
        if record.work is None and record.outcomes:
            rollout = record.outcomes[-1].rollout
        else:
            rollout = record.work.rollout if record.work else None
        for item in said:
            self._say(self.component.name, item, rollout)
        log.info(
            "component=%s event=%s from=%s to=%s",
            self.component.name,
            type(event).__name__,
            before,
            record.state,
        )
        if record.state in (_L.STAGING, _L.ACTIVATING):
            self._changed()  # what follows may take long

    def complain(self, code: Code, message: str) -> None:
        """Remember an error that is not about the work in hand."""
        problem = lifecycle.problem(code, message, int(time.time()))
        self.record = self._journal(self.record.model_copy(update={"last_error": problem}))

    # -- the plan

    def follow(self, planned: Planned, now: int) -> None:
        """Take a fresh plan: begin, abandon, or go back from what was withdrawn."""
        self.wants = Wants()
        self.plan = planned.plan
        self.answer = planning.answer(self._config, planned, None)
        if self.broken:
            return
        work, plan, state = self.record.work, planned.plan, self.record.state
        goal = plan.goal if plan.act in (Act.INSTALL, Act.STAGE, Act.RETURN) else None
        if work is not None and state in (_L.ACTIVATING, _L.PROBATION):
            if work.goal.digest in planned.withdrawn:
                self._observer = None
                self._step(lifecycle.Recalled())
        elif work is not None and state in BEFORE_ACTIVATION:
            if goal is None or goal.digest != work.goal.digest or not self._enabled():
                self._step(lifecycle.Abandon(plan.code if plan.act is Act.DEFER else None))
            elif (plan.act, goal, plan.rollout) != (work.act, work.goal, work.rollout):
                self._step(lifecycle.Reorder(plan.act, goal, plan.rollout))
        if self.record.state is _L.IDLE and goal is not None and self._enabled():
            self._begin(planned, goal, now)

    def _enabled(self) -> bool:
        return self._by_hand or self._config.policy.enabled

    def _begin(self, planned: Planned, goal: Goal, now: int) -> None:
        retry, plan = self.record.retry, planned.plan
        if retry and (retry.digest, retry.attempt) == (goal.digest, goal.attempt) and now < retry.at:
            self.wants.at = retry.at
            return
        run = self.record.run
        begin = lifecycle.Begin(
            act=plan.act,
            goal=goal,
            rollout=plan.rollout,
            name=version_name(goal.version, goal.digest),
            old=version_name(run.version, run.digest) if run else None,
        )
        work = Work(act=begin.act, goal=goal, rollout=begin.rollout, name=begin.name, old=begin.old)
        if found := self.release_of(work):
            # What policy does not permit is answered without beginning: nothing is written for it.
            permitted = self._permitted(work, found[0])
            if permitted.verdict != "proceed":
                self.answer = planning.answer(self._config, planned, permitted)
                return
        self._step(begin)

    def advance(self, planned: Planned, *, may_activate: bool) -> bool:
        """Do the next thing. True if more can be done at once, False if something must come first."""
        if self.broken or self.record.work is None:
            return False
        state, work = self.record.state, self.record.work
        try:
            return self._act(state, work, planned, may_activate)
        except UpgradeError as error:
            problem = error
        except OSError as error:
            problem = disk_error(error, f"while {state}")
        log.warning(
            "component=%s state=%s code=%s cause=%a", self.component.name, state, problem.code, problem
        )
        self._failed(state, problem)
        return True

    def _failed(self, state: Lifecycle, problem: UpgradeError) -> None:
        if state in BEFORE_ACTIVATION:
            with suppress(OSError):
                self.layout.empty_staging()
            failed = Event.UPGRADE_INSTALL_FAILED
            if state in (_L.WAITING, _L.VERIFYING):
                failed = Event.UPGRADE_VERIFY_FAILED
            elif state is _L.DOWNLOADING:
                failed = Event.UPGRADE_DOWNLOAD_FAILED
            self._step(lifecycle.Fail(failed, problem.upgrade_code, problem.message))
        elif state is _L.ROLLING_BACK:
            self._end_trial()
            self._step(lifecycle.WayBackFailed(problem.message))
        else:
            self._observer = None
            self._step(lifecycle.Unwell(problem.upgrade_code, problem.message))

    def _act(self, state: Lifecycle, work: Work, planned: Planned, may_activate: bool) -> bool:
        if state is _L.WAITING:
            return self._wait_for_manifest(work, planned)
        if state is _L.DOWNLOADING:
            return self._download(work, planned)
        if state is _L.VERIFYING:
            return self._verify(work)
        if state is _L.STAGING:
            return self._unpack(work)
        if state is _L.STAGED:
            return self._staged(work, may_activate)
        if state is _L.ACTIVATING:
            return self._activate(work)
        if state is _L.PROBATION:
            return self._watch(work)
        return self._go_back(work)

    # -- before activation

    def release_of(self, work: Work) -> tuple[Release, bytes] | None:
        """The verified manifest of the work: as received, or as kept beside the tree."""
        found = self._memory.release(work.goal.digest)
        if found is None and (data := self.layout.envelope(work.name)) is not None:
            found = verified_release(data, work.goal.digest, self._memory.root)
        return found

    def _artifact(self, work: Work) -> tuple[Release, bytes, Artifact]:
        found = self.release_of(work)
        permitted = self._permitted(work, found[0]) if found else None
        if found is None or permitted is None or permitted.artifact is None:
            why = (
                permitted.reason
                if permitted
                else "the manifest is gone or no longer signed by whom it must be"
            )
            raise UpgradeError((permitted and permitted.code) or Code.UPGRADE_RELEASE_MISMATCH, why)
        return (*found, permitted.artifact)

    def _permitted(self, work: Work, release: Release) -> Permission:
        plan = Plan(work.act, Why.ORDERED, work.goal, work.rollout)
        staged = self.layout.is_installed(work.name) or self.record.state is not _L.WAITING
        return planning.permission(
            self._config, self.record, plan, release, staged=staged, by_hand=self._by_hand
        )

    def _wait_for_manifest(self, work: Work, planned: Planned) -> bool:
        found = self.release_of(work)
        if found is None:
            self.wants.manifest = ManifestWant(self.component.name, work.goal.digest)
            return False
        release, goal = found[0], work.goal
        if (release.component, release.version, release.counter) != (
            self.component.name,
            goal.version,
            goal.counter,
        ):
            raise UpgradeError(
                Code.UPGRADE_RELEASE_MISMATCH, "the manifest is of another version than ordered"
            )
        permitted = self._permitted(work, release)
        self.answer = planning.answer(self._config, planned, permitted)
        if permitted.verdict != "proceed" or permitted.artifact is None:
            self._step(lifecycle.Abandon())
            return False
        present = self._present(work, permitted.artifact)
        self._step(lifecycle.Permit(release.min_counter, present))
        return True

    def _present(self, work: Work, artifact: Artifact) -> bool:
        """Whether the whole tree lies here already; what is not whole is cleared away."""
        if not self.layout.is_installed(work.name):
            return False
        with suppress(UpgradeError):
            if tree_sha256(extract.hash_tree(self.layout.tree(work.name))) == artifact.tree_sha256:
                return True
        log.warning("component=%s tree=%s was changed: fetched again", self.component.name, work.name)
        self.layout.discard(work.name)
        return False

    def _download(self, work: Work, planned: Planned) -> bool:
        _, _, artifact = self._artifact(work)
        wanted = ((artifact.index_sha256, artifact.index_length), (artifact.sha256, artifact.length))
        missing = [(sha, length) for sha, length in wanted if not self._is_there(sha, length)]
        if not missing:
            self._step(lifecycle.Fetched())
            return True
        bases = [*artifact.sources, *([planned.mirror] if planned.mirror else [])]
        if not bases and not self._by_hand:
            raise UpgradeError(
                Code.UPGRADE_DOWNLOAD_FAILED, "neither release nor desired state names a source"
            )
        for sha, _ in missing:
            if given_up := self._blobs.failure(sha):
                raise UpgradeError(*given_up)
        self.wants.blobs = tuple(
            BlobWant(sha, length, tuple(f"{base.rstrip('/')}/{sha}" for base in bases))
            for sha, length in wanted
        )
        return False

    def _is_there(self, sha256: str, length: int) -> bool:
        blob = self._blobs.open(sha256, length)
        if blob is None:
            return False
        blob.close()
        return True

    def _open(self, sha256: str, length: int) -> BinaryIO:
        blob = self._blobs.open(sha256, length)
        if blob is None:
            raise UpgradeError(Code.UPGRADE_DOWNLOAD_FAILED, f"blob {sha256[:16]} is not there")
        return blob

    def _index(self, artifact: Artifact) -> bytes:
        with self._open(artifact.index_sha256, artifact.index_length) as blob:
            index = blob.read(artifact.index_length + 1)
        if hashlib.sha256(index).hexdigest() != artifact.index_sha256:
            raise UpgradeError(Code.UPGRADE_CHECKSUM_MISMATCH, "the chunk index differs from what was signed")
        return index

    def _verify(self, work: Work) -> bool:
        self._index(self._artifact(work)[2])
        self._step(lifecycle.Checked())
        return True

    def _unpack(self, work: Work) -> bool:
        release, envelope, artifact = self._artifact(work)
        facts = extract.ArtifactFacts(
            format=artifact.format,
            length=artifact.length,
            sha256=artifact.sha256,
            chunk_size=artifact.chunk_size,
            index=self._index(artifact),
            unpacked_size=artifact.unpacked_size,
            member_count=artifact.member_count,
            tree_sha256=artifact.tree_sha256,
        )
        if not self.layout.is_installed(work.name):  # promoted just before a crash: whole by its name
            self.layout.empty_staging()
            staged = self.layout.staging / work.name
            durable.make_folder(staged)
            with self._open(artifact.sha256, artifact.length) as blob:
                extract.extract(blob, facts, staged)
            self.layout.promote(staged, work.name, envelope, artifact.entrypoint)
        log.info("staged component=%s version=%s", self.component.name, release.version)
        self._step(lifecycle.Unpacked())
        return True

    # -- activation, probation, return

    def _staged(self, work: Work, may_activate: bool) -> bool:
        if work.act is Act.STAGE:
            if not work.told:
                self._step(lifecycle.Told())
            return False
        if not may_activate:
            return False
        try:
            self._seam.state()
        except FleetfootError as error:
            # Nothing was touched yet, and without a supervisor nothing could be proved.
            raise UpgradeError(Code.UPGRADE_IO_ERROR, error.message, remedy=error.remedy) from error
        run = self.record.run
        self._step(lifecycle.Activate(version_name(run.version, run.digest) if run else None))
        return True

    def _activate(self, work: Work) -> bool:
        new, current = target_of(work.name), self.layout.read_current()
        trial = self.layout.read_trial()
        if current != new:
            if trial and trial.new == new and trial.exhausted:
                raise UpgradeError(Code.UPGRADE_BOOT_FAILED, "the guard went back before the worker looked")
            self._grant_trial(work)
            self.layout.swap_current(new)
        self._restart()
        self._observer = None
        self._step(lifecycle.Swapped())
        return True

    def _grant_trial(self, work: Work) -> None:
        if work.old is not None:
            maximum = self.component.max_boot_attempts
            self.layout.write_trial(Trial(0, maximum, target_of(work.old), target_of(work.name)))

    def _restart(self) -> None:
        try:
            self._seam.restart()
        except FleetfootError as error:
            # The look that follows decides: the component may be up, or be started by the next boot.
            log.warning("component=%s restart failed cause=%a", self.component.name, error.message)

    def _look(self, name: str) -> probation.Judgement:
        now = time.monotonic()
        if self._observer is None:
            self._observer = probation.Observer(self.component.window, self.component.settle, now)
        return self._observer.judge(probation.look(self.component, self._seam, target_of(name)), now)

    def _watch(self, work: Work) -> bool:
        if self.layout.read_current() != target_of(work.name):
            self._observer = None
            text = f"it did not stay up in {self.component.max_boot_attempts} starts: the guard went back"
            self._step(lifecycle.Unwell(Code.UPGRADE_BOOT_FAILED, text))
            return True
        if work.old is not None and self._observer is None and self.layout.read_trial() is None:
            self._grant_trial(work)
        judgement = self._look(work.name)
        if judgement.verdict == "wait":
            return False
        self._observer = None
        if judgement.verdict == "unwell":
            self._step(lifecycle.Unwell(judgement.code, judgement.message))
            return True
        self.layout.remove_trial()
        if self.layout.read_current() == target_of(work.name):  # the guard may have gone back just before
            self._step(lifecycle.Healthy())
            self._collect()
        return True

    def _go_back(self, work: Work) -> bool:
        if work.old is None:
            self._uninstall(work)
            self._end_trial()
            self._step(lifecycle.WayBackProven())
            return True
        if self._observer is None:
            self._turn_round(work.old)
        # The way back has the same window, but needs to be well only once: it ran before.
        judgement = self._back_look(work.old)
        if judgement.verdict == "wait":
            return False
        self._observer = None
        self._end_trial()
        if judgement.verdict == "healthy":
            self._step(lifecycle.WayBackProven())
        else:
            self._step(lifecycle.WayBackFailed(judgement.message))
        return True

    def _turn_round(self, old: str) -> None:
        """Let `current` lead back and the previous version run, whatever was done of it already."""
        target = target_of(old)
        if self.layout.read_current() != target:
            self.layout.swap_current(target)
        started = None
        with suppress(FleetfootError):
            started = self._seam.state().target
        if started != target:
            self._restart()

    def _back_look(self, old: str) -> probation.Judgement:
        now = time.monotonic()
        if self._observer is None:
            self._observer = probation.Observer(self.component.window, 0, now)
        seen = probation.look(self.component, self._seam, target_of(old))
        if seen.problem is None:
            return probation.Judgement("healthy")
        return self._observer.judge(seen, now)

    def _uninstall(self, work: Work) -> None:
        """The first version failed and there is nothing to go back to: the component is not installed."""
        if self.layout.read_current() == target_of(work.name):
            durable.remove_file(self.layout.current)
        self._restart()

    def _end_trial(self) -> None:
        try:
            self.layout.remove_trial()
        except OSError as error:
            log.warning("component=%s trial stays cause=%a", self.component.name, str(error))

    def _collect(self) -> None:
        """Remove versions that are nobody's way back: beside run and prev the newest ones are kept."""
        keep = {version_name(i.version, i.digest) for i in (self.record.run, self.record.prev) if i}
        others = [name for name in self.layout.installed() if name not in keep]
        others.sort(key=lambda name: self.layout.tree(name).stat().st_mtime, reverse=True)
        spare = max(0, self._config.policy.keep_versions - (len(keep) - 1))
        try:
            removed = self.layout.collect(keep | set(others[:spare]))
        except (OSError, UpgradeError) as error:
            log.warning("component=%s collection failed cause=%a", self.component.name, str(error))
        else:
            if removed:
                log.info("component=%s removed=%s", self.component.name, ",".join(removed))
