"""Before activation: from an ordered digest to a whole, verified tree. What runs is not touched.

Whatever raises in here ends the work with its code; see `driver`.
"""

import hashlib
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout, version_name
from fleetfoot_agent.spool import BlobWant, ManifestWant
from fleetfoot_agent.worker import extract, hooks, owner, planning, platform_facts, steps
from fleetfoot_agent.worker.journal import Journal
from fleetfoot_agent.worker.memory import Memory, verified_release
from fleetfoot_agent.worker.planning import Planned
from fleetfoot_agent.worker.record import Work
from fleetfoot_protocol.allow import Permission, find_artifact
from fleetfoot_protocol.codes import Code, Family, info
from fleetfoot_protocol.documents import Artifact, Goal, Release
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.reports import Answer
from fleetfoot_protocol.resolve import Act, Plan, Why
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.tree import tree_sha256

log = logging.getLogger(__name__)

_L = Lifecycle

#: With less room in the spool than this nothing can be fetched: the courier could not even say why.
LEAST_BYTES, LEAST_FILES = 64 * 1024, 8


class Blobs(Protocol):
    """Where the bytes of a release come from: the spool, or a bundle at hand."""

    def open(self, sha256: str, length: int) -> BinaryIO | None:
        """The blob, if it is there with exactly this length."""

    def failure(self, sha256: str) -> tuple[Code, str] | None:
        """Why it will not come, if somebody has given it up."""


@dataclass(slots=True)
class Wants:
    """What is waited for: manifest or blobs, and the unix second at which to look again."""

    manifest: ManifestWant | None = None
    blobs: tuple[BlobWant, ...] = ()
    at: int | None = None


class Staging:
    """The way of one component from waiting to staged. Holds the wants, and the answer to the document."""

    def __init__(
        self,
        config: AgentConfig,
        component: str,
        layout: Layout,
        journal: Journal,
        memory: Memory,
        blobs: Blobs,
        *,
        by_hand: bool,
    ) -> None:
        self.wants = Wants()
        self.answer: Answer | None = None
        self.refusal: Permission | None = None
        #: Whether the owner's time or consent keeps what is staged from being activated now.
        self.held = False
        self._config = config
        self._component = component
        self._layout = layout
        self._journal = journal
        self._memory = memory
        self._blobs = blobs
        self._by_hand = by_hand

    def release_of(self, work: Work) -> tuple[Release, bytes] | None:
        """The verified manifest of the work: as received, or as kept beside the tree."""
        found = self._memory.release(work.goal.digest)
        if found is None and (data := self._layout.envelope(work.name)) is not None:
            found = verified_release(data, work.goal.digest, self._memory.root)
        return found

    def blobs_of(self, goal: Goal) -> tuple[str, ...]:
        """What has to be fetched to install the goal; nothing where it is not known, or is done."""
        found = self._memory.release(goal.digest)
        if found is None or self._layout.is_installed(version_name(goal.version, goal.digest)):
            return ()
        fits = find_artifact(found[0], platform_facts.this_platform(self._config.hardware))
        return () if isinstance(fits, Permission) else (fits.index_sha256, fits.sha256)

    def permitted(self, work: Work, release: Release) -> Permission:
        """What local policy says to the work now, if the order names the release as it is.

        If not, that is the order's fault, and nothing is held against the release.
        """
        ordered = (self._component, work.goal.version, work.goal.counter)
        if (release.component, release.version, release.counter) != ordered:
            text = "the manifest is of another version than ordered"
            self.refusal = Permission("reject", Code.UPGRADE_RELEASE_MISMATCH, text)
            return self.refusal
        plan = Plan(work.act, Why.ORDERED, work.goal, work.rollout)
        record = self._journal.record
        now, floor = int(time.time()), self._memory.time_floor() if self._config.policy.windows else 0
        here = owner.circumstances(self._config, self._component, plan, now, floor, note=not self._by_hand)
        fetching = record.state not in (_L.IDLE, _L.WAITING)  # then its room on the disk is taken already
        staged = fetching or self._layout.is_installed(work.name)
        permitted = planning.permission(
            self._config,
            record,
            plan,
            release,
            staged=staged,
            by_hand=self._by_hand,
            here=None if self._by_hand else here,
        )
        self.refusal = None if permitted.verdict == "proceed" else permitted
        if permitted.verdict == "defer":
            self.wants.at = here.look_at(permitted.code)
        return permitted

    def must_stop(self, work: Work, planned: Planned) -> bool:
        """Whether local policy, as it is now, wants begun work stopped; what is refused is answered.

        A window that closes, or a turn that is not yet, does not throw away what is being fetched: it holds
        back what is staged.
        """
        self.held = False
        found = self.release_of(work)
        if found is None:
            return False  # whoever needs it says so
        permitted = self.permitted(work, found[0])
        staged = self._journal.record.state is _L.STAGED and work.act is Act.INSTALL
        stops = permitted.code is not None and info(permitted.code).family is Family.POLICY
        self.held = staged and permitted.verdict == "defer"
        if stops or self.held:
            self.answer = planning.answer(self._config, planned, permitted)
        return stops

    def wait_for_manifest(self, work: Work, planned: Planned) -> bool:
        """Waiting: the manifest is verified and permitted, or asked for, or the work is abandoned."""
        found = self.release_of(work)
        if found is None:
            self.wants.manifest = ManifestWant(self._component, work.goal.digest)
            return False
        release = found[0]
        permitted = self.permitted(work, release)
        self.answer = planning.answer(self._config, planned, permitted)
        if permitted.verdict != "proceed" or permitted.artifact is None:
            self._journal.step(steps.Abandon())
            return False
        present = self._present(work, found[1], permitted.artifact)
        if not present:
            hooks.run(self._config.components[self._component], self._layout, "pre-download", work)
        self._journal.step(steps.Permit(release.min_counter, present))
        return True

    def _present(self, work: Work, envelope: bytes, artifact: Artifact) -> bool:
        """Whether the whole tree lies here already; what is not whole is cleared away."""
        if not self._layout.is_installed(work.name):
            return False
        with suppress(UpgradeError):
            if tree_sha256(extract.hash_tree(self._layout.tree(work.name))) == artifact.tree_sha256:
                return True
        log.warning("component=%s tree=%s was changed: fetched again", self._component, work.name)
        # The only copy of the manifest may be the one beside the tree, which goes with it.
        self._memory.store(f"manifest.{work.goal.digest}", envelope)
        self._layout.discard(work.name)
        return False

    def download(self, work: Work, planned: Planned) -> bool:
        """Downloading: all blobs are there, or they are asked for."""
        _, _, artifact = self._artifact(work)
        wanted = ((artifact.index_sha256, artifact.index_length), (artifact.sha256, artifact.length))
        missing = [(sha, length) for sha, length in wanted if not self._is_there(sha, length)]
        if not missing:
            self._journal.step(steps.Fetched())
            return True
        bases = [*artifact.sources, *([planned.mirror] if planned.mirror else [])]
        if not bases and not self._by_hand:
            text = "neither release nor desired state names a source"
            raise UpgradeError(Code.UPGRADE_DOWNLOAD_FAILED, text)
        for sha, _ in missing:
            if given_up := self._blobs.failure(sha):
                raise UpgradeError(*given_up)
        self._demand_room()
        rate = self._config.policy.bandwidth or None
        self.wants.blobs = tuple(
            BlobWant(sha, length, tuple(f"{base.rstrip('/')}/{sha}" for base in bases), rate)
            for sha, length in wanted
        )
        return False

    def _demand_room(self) -> None:
        """Not for the blobs, of which the courier tells, but for telling: without any it could not."""
        found = os.statvfs(self._config.spool)
        free, files = found.f_bavail * found.f_frsize, found.f_favail
        if free < LEAST_BYTES or (found.f_files and files < LEAST_FILES):
            text = f"the spool's disk has room for {free} bytes and {files} files"
            raise UpgradeError(Code.UPGRADE_DISK_FULL, text)

    def _is_there(self, sha256: str, length: int) -> bool:
        blob = self._blobs.open(sha256, length)
        if blob is None:
            return False
        blob.close()
        return True

    def verify(self, work: Work) -> bool:
        """Verifying: the chunk index is what was signed. Chunks are verified while they are unpacked."""
        self._index(self._artifact(work)[2])
        self._journal.step(steps.Checked())
        return True

    def unpack(self, work: Work) -> bool:
        """Staging: the tree is unpacked, verified, durable, and gets its name."""
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
        if self._layout.is_installed(work.name):
            # Promoted just before a crash or a failing sync: whole by its name, which may not last yet.
            durable.fsync_dir(self._layout.versions)
        else:
            self._layout.empty_staging()
            staged = self._layout.staging / work.name
            durable.make_folder(staged)
            with self._open(artifact.sha256, artifact.length) as blob:
                extract.extract(blob, facts, staged)
            self._layout.promote(staged, work.name, envelope, artifact.entrypoint)
        log.info("staged component=%s version=%s", self._component, release.version)
        self._journal.step(steps.Unpacked())
        return True

    def _artifact(self, work: Work) -> tuple[Release, bytes, Artifact]:
        found = self.release_of(work)
        if found is None:
            gone = "the manifest is gone or no longer signed by whom it must be"
            raise UpgradeError(Code.UPGRADE_RELEASE_MISMATCH, gone)
        permitted = self.permitted(work, found[0])
        fits = find_artifact(found[0], platform_facts.this_platform(self._config.hardware))
        if permitted.verdict == "reject" or isinstance(fits, Permission):
            raise UpgradeError(permitted.code or Code.UPGRADE_INCOMPATIBLE, permitted.reason)
        return (*found, fits)

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
