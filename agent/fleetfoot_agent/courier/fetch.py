"""Fetching one blob: from its sources in turn, from where it stopped, to exactly its length and digest.

That the courier checks the digest is a courtesy: it goes to the next source by itself when a mirror is bad.
The worker believes none of it and checks every chunk.
"""

import errno
import hashlib
import logging
import os
import threading
import time
from contextlib import suppress

from fleetfoot_agent.courier.http_source import Body, Leash, Source, SourceError
from fleetfoot_agent.courier.timing import full_jitter
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.spool import BlobState, BlobWant, CourierSide
from fleetfoot_protocol.codes import Code

log = logging.getLogger(__name__)

_PIECE = 64 * 1024
#: An attempt that brought so many bytes did not fail, it was cut: the same source goes on.
_WORTH = 64 * 1024
_DISK_CODES: dict[int, Code] = {
    errno.ENOSPC: Code.UPGRADE_DISK_FULL,
    errno.EDQUOT: Code.UPGRADE_DISK_FULL,
    errno.EROFS: Code.UPGRADE_READ_ONLY,
}


class Pacer:
    """Holds all downloads of a courier together to the rate that the worker wants, in bytes per second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    def take(self, count: int, rate: int) -> float:
        """Seconds to wait after having taken `count` bytes."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / rate
            return self._free_at - now


class Interrupted(Exception):
    """The blob is not wanted any more, or the courier stops."""


class _TooLate(Exception):
    """The deadline has passed."""


class Fetch:
    """The work on one blob. `run` is for its thread; the rest is for the thread that watches it.

    have: bytes on the disk; moved_at: monotonic seconds at which it last grew or an attempt began.
    """

    def __init__(
        self, want: BlobWant, spool: CourierSide, source: Source, tuning: Tuning, pacer: Pacer | None = None
    ) -> None:
        self.want = want
        self._pacer = pacer or Pacer()
        self.have = 0
        self.moved_at = time.monotonic()
        self._spool = spool
        self._source = source
        self._tuning = tuning
        self._leash = Leash()
        self._interrupted = threading.Event()
        self._url: str | None = None
        self._sole_source: str | None = None
        self._told_at = float("-inf")
        self._judged = (self.moved_at, 0)
        self._crawled = False

    def crawls(self, now: float) -> bool:
        """Whether less has come in the last `fetch_stall` seconds of an attempt than counts as a download."""
        since, before = self._judged
        if now - since < self._tuning.fetch_stall:
            return False
        gained, self._judged = self.have - before, (now, self.have)
        self._crawled = gained < self._tuning.fetch_least
        return self._crawled

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.want.deadline is not None and time.time() > self.want.deadline

    def interrupt(self) -> None:
        """Make `run` raise `Interrupted` soon."""
        self._interrupted.set()
        self._leash.pull(for_good=True)

    def break_off(self) -> None:
        """End the attempt under way, which then has failed."""
        self._leash.pull(for_good=False)

    def run(self) -> BlobState:
        """Fetch. Returns what the blob's state file says now: whole, or with the error that ended the work.

        Raises `Interrupted`; what is on the disk then stays for the next time. OSError if not even the
        state can be written.
        """
        try:
            state = self._rounds()
        except _TooLate:
            state = BlobState(self.have, Code.UPGRADE_DOWNLOAD_SLOW, self._url)
        except OSError as error:  # the disk's: those of the network are SourceErrors
            log.error("event=fetch_disk sha256=%s error=%a", self.want.sha256, error)
            code = _DISK_CODES.get(error.errno or 0, Code.UPGRADE_IO_ERROR)
            if code is Code.UPGRADE_DISK_FULL:
                with suppress(OSError):
                    self._remove()  # also to have room for saying so
            state = BlobState(self.have, code, self._url)
        self._spool.end_blob(self.want.sha256, state)
        return state

    def _rounds(self) -> BlobState:
        want, tuning = self.want, self._tuning
        self._prepare()
        if self._whole():
            return BlobState(want.length)
        usable = list(want.urls)
        code = Code.UPGRADE_DOWNLOAD_FAILED
        for attempt in range(tuning.fetch_rounds):
            for url in tuple(usable):
                self._check()
                try:
                    self._drain(url)
                    return BlobState(want.length, None, url)
                except SourceError as error:
                    self._check()
                    code = error.code
                    log.info("event=fetch_failed sha256=%s url=%a error=%a", want.sha256, url, error)
                    if error.final:
                        usable.remove(url)
            if not usable:
                break
            self._pause(full_jitter(attempt, tuning.fetch_base, tuning.fetch_cap))
        return BlobState(self.have, code, self._url)

    def _drain(self, url: str) -> None:
        """Take the rest of the blob from `url`, connecting again as long as each connection was worth it."""
        self._url = url
        while True:
            before = self.have
            try:
                self._attempt(url)
                return
            except SourceError as error:
                if self._crawled:
                    text = f"less than {self._tuning.fetch_least} bytes in {self._tuning.fetch_stall:g} s"
                    raise SourceError(Code.UPGRADE_DOWNLOAD_SLOW, text, final=True) from error
                if error.final or self.have - before < _WORTH:
                    raise
            self._pause(full_jitter(0, self._tuning.fetch_base, self._tuning.fetch_cap))

    def _attempt(self, url: str) -> None:
        self.moved_at = now = time.monotonic()
        self._judged, self._crawled = (now, self.have), False
        body = self._source.open(url, self.have, self.want.length, self._leash)
        try:
            with self._spool.open_blob(self.want.sha256) as blob:
                if body.start == 0:
                    blob.truncate(0)
                    self.have = 0
                    self._judged = (time.monotonic(), 0)
                    self._sole_source = url
                elif self._sole_source != url:
                    self._sole_source = None
                self._copy(body, blob.fileno())
                os.fsync(blob.fileno())
            if body.goes_on():
                self._empty()
                raise SourceError(
                    Code.UPGRADE_LENGTH_MISMATCH, f"more than {self.want.length} bytes come", final=True
                )
        finally:
            body.close()
        if not self._whole():
            # If another source or an earlier run gave a part, this one may be innocent.
            raise SourceError(
                Code.UPGRADE_CHECKSUM_MISMATCH, "other bytes than signed", final=self._sole_source == url
            )

    def _copy(self, body: Body, blob: int) -> None:
        rate = self.want.rate
        piece = _PIECE if rate is None else min(_PIECE, rate)
        while self.have < self.want.length:
            self._check()
            data = body.read(min(piece, self.want.length - self.have))
            if not data:
                raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, f"cut after {self.have} bytes")
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(blob, rest) :]
            self.have += len(data)
            self.moved_at = now = time.monotonic()
            self._tell(now)
            if rate is not None:
                self._interrupted.wait(self._pacer.take(len(data), rate))

    def _prepare(self) -> None:
        with self._spool.open_blob(self.want.sha256) as blob:
            self.have = os.fstat(blob.fileno()).st_size
            if self.have > self.want.length:
                blob.truncate(0)
                self.have = 0

    def _whole(self) -> bool:
        """Whether length and digest are right; if only the length is, the blob is emptied."""
        if self.have != self.want.length:
            return False
        with open(self._spool.blob_path(self.want.sha256), "rb") as blob:
            if hashlib.file_digest(blob, "sha256").hexdigest() == self.want.sha256:
                return True
        self._empty()
        return False

    def _empty(self) -> None:
        with self._spool.open_blob(self.want.sha256) as blob:
            blob.truncate(0)
        self.have = 0

    def _remove(self) -> None:
        """Not emptied but removed: where a quota is reached, a file system may let nobody shorten a file.

        One that copies on write (btrfs) counts as free only what it has committed, hence the sync.
        """
        self._spool.blob_path(self.want.sha256).unlink(missing_ok=True)
        self.have = 0
        os.sync()

    def _tell(self, now: float) -> None:
        if now - self._told_at >= self._tuning.progress_interval:
            self._told_at = now
            self._spool.write_blob_state(self.want.sha256, BlobState(self.have, None, self._url))

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted
        if self.late:
            raise _TooLate

    def _pause(self, seconds: float) -> None:
        if self.want.deadline is not None:
            seconds = min(seconds, max(0.0, self.want.deadline - time.time()))
        self._interrupted.wait(seconds)
        self._check()
