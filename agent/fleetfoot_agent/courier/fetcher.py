"""Which blobs are being fetched: at most a few at a time, each on a thread, as the worker's list says."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from fleetfoot_agent.courier.fetch import Fetch, Interrupted, Pacer
from fleetfoot_agent.courier.http_source import Source
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.spool import BlobState, BlobWant, CourierSide
from fleetfoot_protocol.codes import Code

log = logging.getLogger(__name__)


class Fetcher:
    """For the courier's thread. ended: called on a fetching thread when its work is over."""

    def __init__(self, spool: CourierSide, source: Source, tuning: Tuning, ended: Callable[[], None]) -> None:
        self._spool = spool
        self._source = source
        self._tuning = tuning
        self._ended = ended
        self._pacer = Pacer()
        self._wants: dict[str, BlobWant] = {}
        self._keep: frozenset[str] = frozenset()
        self._settled: dict[str, BlobState] = {}
        self._jobs: dict[str, _Job] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is being fetched."""
        return bool(self._jobs)

    def want(self, blobs: Iterable[BlobWant], keep: Iterable[str] = ()) -> None:
        """Take over the worker's list. Blobs that failed are tried once more; what is not listed goes.

        keep: blobs that rest: of these what is here stays.
        """
        before, self._wants = self._wants, {blob.sha256: blob for blob in blobs}
        self._keep = frozenset(keep)
        for sha256, job in self._jobs.items():
            if self._wants.get(sha256) != job.fetch.want:
                job.fetch.interrupt()
        for sha256, blob in self._wants.items():
            if sha256 not in before and self._is_here(blob):
                self._settled[sha256] = BlobState(blob.length)
        self._settled = {
            sha256: state
            for sha256, state in self._settled.items()
            if sha256 in self._wants and state.error is None and state.have == self._wants[sha256].length
        }
        self._sweep()

    def try_again(self) -> None:
        """Forget failures: the network may have come back."""
        self._settled = {sha256: state for sha256, state in self._settled.items() if state.error is None}

    def step(self, now: float) -> list[tuple[BlobWant, BlobState]]:
        """Start and end work. Returns the blobs that are done or have failed since, with their states."""
        ended = [pair for job in list(self._jobs.values()) if job.done for pair in self._reap(job)]
        for sha256, blob in self._wants.items():
            if len(self._jobs) >= self._tuning.downloads:
                break
            if sha256 not in self._settled and sha256 not in self._jobs:
                job = _Job(Fetch(blob, self._spool, self._source, self._tuning, self._pacer), self._ended)
                self._jobs[sha256] = job
                job.start()
        for job in self._jobs.values():
            stalled = now - job.fetch.moved_at > self._tuning.fetch_stall
            if job.fetch.late or stalled or job.fetch.crawls(now):
                job.fetch.break_off()
        return ended

    def progress(self, now: float) -> list[tuple[BlobWant, int]]:
        """(blob, bytes that are here) of each that has grown since it was last told and may be told again."""
        told = []
        for job in self._jobs.values():
            have = job.fetch.have
            if have != job.told and now - job.told_at >= self._tuning.progress_interval:
                job.told, job.told_at = have, now
                told.append((job.fetch.want, have))
        return told

    def stop(self) -> None:
        """End all work and wait for it."""
        for job in self._jobs.values():
            job.fetch.interrupt()
        for job in self._jobs.values():
            job.join()
        self._jobs.clear()

    def _reap(self, job: "_Job") -> list[tuple[BlobWant, BlobState]]:
        job.join()
        want = job.fetch.want
        del self._jobs[want.sha256]
        if self._wants.get(want.sha256) != want:
            self._sweep()
            return []
        if job.state is None:
            return []
        self._settled[want.sha256] = job.state
        return [(want, job.state)]

    def _is_here(self, blob: BlobWant) -> bool:
        state = self._spool.read_blob_state(blob.sha256)
        told = state is not None and state.error is None and state.have == blob.length
        return told and self._spool.blob_size(blob.sha256) == blob.length

    def _sweep(self) -> None:
        self._spool.keep_blobs(self._wants.keys() | self._jobs.keys(), self._keep)


class _Job(threading.Thread):
    """One fetch on its thread. state: how it ended, None while it runs or when it was interrupted."""

    def __init__(self, fetch: Fetch, ended: Callable[[], None]) -> None:
        super().__init__(name=f"courier-fetch-{fetch.want.sha256[:8]}", daemon=True)
        self.fetch = fetch
        self.state: BlobState | None = None
        self.done = False
        self.told = 0
        self.told_at = time.monotonic()
        self._notify = ended

    def run(self) -> None:
        want = self.fetch.want
        try:
            self.state = self.fetch.run()
            log.info(
                "event=fetched sha256=%s have=%d length=%d error=%s",
                want.sha256,
                self.state.have,
                want.length,
                self.state.error,
            )
        except Interrupted:
            pass
        except Exception as error:
            log.error("event=fetch_broke sha256=%s error=%a", want.sha256, error)
            self.state = BlobState(self.fetch.have, Code.UPGRADE_INTERNAL)
        finally:
            self.done = True
            self._notify()
