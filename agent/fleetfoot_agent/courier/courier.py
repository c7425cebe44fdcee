"""One device's courier: a loop on one thread around a session, an outbox, downloads and the wake.

The loop waits for the broker's socket and for nudges of its helper threads, and looks at out/ in between:
every second when nothing happens, ten times a second while a worker is at work or just was, and at once
when a worker that it runs itself has ended. A second is short against everything a worker waits for, six
stats a second cost nothing that can be measured, and the standard library has no inotify.
"""

import json
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier.fetcher import Fetcher
from fleetfoot_agent.courier.floodgate import Floodgate
from fleetfoot_agent.courier.http_source import Source
from fleetfoot_agent.courier.inbox import Inbox
from fleetfoot_agent.courier.outbox import Outbox
from fleetfoot_agent.courier.presence import Presence
from fleetfoot_agent.courier.renewal import Renewal
from fleetfoot_agent.courier.running import Waker, WorkerRunner
from fleetfoot_agent.courier.session import Session
from fleetfoot_agent.courier.timing import boot_id, boottime, full_jitter
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.spool import BlobWant, CourierSide, Link, OutMarks, WakeAt
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

#: Changes younger than this may share their mtime with the next one: look again.
_RACY_NS = 100_000_000
#: Looks at a status and an attestation that do not belong together, before the next change is awaited.
_STATUS_LOOKS = 5
_NO_MARKS = OutMarks(None, None, None, None, None, None)


class Courier:
    """Carries for the device of `config` until it is stopped. Many may live in one process.

    start_worker: one blocking run of the worker, called on a thread of its own whenever wake/now is there,
    never twice at a time; an exception is a failed run. None: somebody else (systemd) runs the worker.
    stop_worker: makes a run under way return soon, called when the courier stops.
    Raises OSError if the spool cannot be made.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        start_worker: Callable[[], None] | None = None,
        stop_worker: Callable[[], None] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._config = config
        self._tuning = tuning = tuning or Tuning()
        self._spool = CourierSide(config.spool)
        self._boot = boot_id()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._bell = -1
        # Reentrant, because a signal handler may ring while its own thread holds it.
        self._bell_lock = threading.RLock()
        self._inbox = Inbox(config, self._spool)
        self._gate = Floodgate(tuning.flood_span, tuning.flood_burst)
        self._session = Session(config, tuning, self, self.nudge)
        self._outbox = Outbox(
            self._spool, self._send_event, window=tuning.outbox_window, interval=tuning.acked_interval
        )
        self._fetcher = Fetcher(self._spool, self._source(), tuning, self.nudge)
        self._renewal = Renewal(config)
        self._waker = Waker(config.wake_dir, tuning.wake_interval)
        self._runner = self._runner_for(start_worker, stop_worker)
        topic = partial(topics.build, root=config.broker.topic_root, group=config.group, device=config.device)
        self._status_topic = topic(Kind.STATUS)
        self._attestation_topic = topic(Kind.STATUS_ATTESTATION)
        self._events_topic = topic(Kind.DEVICE_EVENTS)
        self._progress_topic = topic(Kind.PROGRESS)
        self._marks = _NO_MARKS
        #: What failed at the last look, to be said once.
        self._fault = ""
        self._look_at = self._busy_until = float("-inf")
        self._status: tuple[bytes, bytes] | None = None
        self._status_looks = 0
        self._wake_at: WakeAt | None = None
        self._presence = Presence()
        #: Subscribed to and not let in yet: asked for again.
        self._awaited: set[str] = set()
        self._ask_again_at = self._listen_again_at = float("inf")

    def _source(self) -> Source:
        broker = self._config.broker
        return Source(
            connect_timeout=self._tuning.fetch_connect_timeout,
            read_timeout=self._tuning.fetch_read_timeout,
            ca_file=broker.ca_file,
            identity=(broker.cert_file, broker.key_file) if broker.cert_file and broker.key_file else None,
        )

    def _runner_for(
        self, start: Callable[[], None] | None, stop: Callable[[], None] | None
    ) -> WorkerRunner | None:
        if start is None:
            return None
        return WorkerRunner(
            start,
            stop,
            self._config.wake_dir,
            pause=self._tuning.worker_restart,
            interval=self._tuning.wake_interval,
            ended=self.nudge,
        )

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._session.up

    def start(self) -> None:
        """Run on a thread of its own until `stop`; once in a life."""
        self._thread = threading.Thread(target=self.run, name=f"courier-{self._config.device}", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """Make `run` return soon. For any thread and for signal handlers."""
        self._stop.set()
        self.nudge()

    def stop(self) -> None:
        """End what `start` began and wait for it: worker, downloads, `offline`, session, threads."""
        self.request_stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def nudge(self) -> None:
        """Have a look at the spool now. For any thread."""
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def run(self) -> None:
        """Carry, on this thread, until `request_stop`; once in a life."""
        with self._bell_lock:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._tell_link()
            self._wake("start")
            while not self._stop.is_set():
                if not self._survived(self._turn):
                    self._stop.wait(1.0)
            self._survived(self._farewell)
        finally:
            self._end()

    # The loop

    def _survived(self, work: Callable[[], None]) -> bool:
        # A full or failing disk must not end the courier: it is the one who can tell about it.
        try:
            work()
        except OSError as error:
            log.error("event=spool_failed device=%s error=%a", self._config.device, error)
            return False
        return True

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look(now)
        due = [self._session.step(now), self._step_downloads(now), self._step_wake_at(now)]
        due += [self._waker.step(now), self._renewal.step(now), self._step_held(now)]
        if self._runner is not None:
            due.append(self._runner.step(now))
        if self._session.up:
            due.append(self._step_session(now))
        self._outbox.flush(now)
        if self._outbox.unwritten:
            due.append(now + self._tuning.acked_interval)
        self._look_at = min(self._look_at, now + self._pace(now))
        self._wait(min([self._look_at, *due]))

    def _pace(self, now: float) -> float:
        running = self._runner is not None and self._runner.running
        return self._tuning.poll_busy if running or now < self._busy_until else self._tuning.poll_idle

    def _wait(self, until: float) -> None:
        """Wait for the broker or a nudge, and hand the session what came."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        watched = self._session.poll_for()
        if watched is not None:
            poll.register(*watched)
        # Rounded up: a wait that ends a moment early would only turn the loop once more.
        timeout = max(0, math.ceil((until - time.monotonic()) * 1000))
        for fd, events in poll.poll(timeout):
            if fd == self._bell:
                os.eventfd_read(self._bell)
                self._look_at = float("-inf")
            else:
                self._session.ready(events, time.monotonic())

    def _look(self, now: float) -> None:
        """Take notice of what the worker wrote since the last look; of all of it again if the disk fails."""
        old, new = self._marks, self._spool.marks()
        self._marks, self._look_at = new, float("inf")
        if new != old:
            self._busy_until = now + self._tuning.busy_for
        try:
            self._take_notice(old, new)
        except OSError as error:
            # What is wanted must not be forgotten with one write that failed: the worker says it once.
            self._marks, self._busy_until = old, now
            if str(error) != self._fault:
                log.error("event=look_failed device=%s error=%a", self._config.device, error)
            self._fault = str(error)
        else:
            self._fault = ""

    def _take_notice(self, old: OutMarks, new: OutMarks) -> None:
        if new.want != old.want:
            self._take_want()
        if new.seen != old.seen:
            self._spool.drop_seen()
        if (new.status, new.attestation) != (old.status, old.attestation):
            self._status_looks = _STATUS_LOOKS
        if self._status_looks > 0:
            self._take_status()
        if new.wake_at != old.wake_at:
            self._wake_at = self._spool.read_wake_at()
        if new.events != old.events:
            self._outbox.look()
            if new.events is not None and abs(time.time_ns() - new.events[1]) < _RACY_NS:
                self._marks = replace(self._marks, events=None)

    def _take_want(self) -> None:
        want = self._spool.read_want()
        if want is None:
            log.warning("event=want_ignored device=%s", self._config.device)
            return
        new, dropped = self._inbox.want(want)
        self._session.subscribe(new)
        # A broker may lose what it has acknowledged; nobody publishes a manifest a second time.
        self._await({name for name in new if self._inbox.is_manifest(name)})
        self._session.unsubscribe(dropped)
        self._fetcher.want(want.blobs, want.keep)

    def _take_status(self) -> None:
        """Publish a new status, if what lies there belongs together."""
        pair = self._spool.read_status()
        self._status_looks = 0 if pair is not None else self._status_looks - 1
        if pair is not None and pair != self._status:
            self._status = pair
            self._publish_status()

    def _step_downloads(self, now: float) -> float:
        for want, state in self._fetcher.step(now):
            self._wake("blob")
            self._publish_progress(want, state.have)
        for want, have in self._fetcher.progress(now):
            self._publish_progress(want, have)
        return now + 1.0 if self._fetcher.busy else float("inf")

    def _step_wake_at(self, now: float) -> float:
        """Wake when the worker asked for it: of another boot means at once (rule 11)."""
        if self._wake_at is None:
            return float("inf")
        ahead = self._wake_at.boottime - boottime()
        if self._wake_at.boot_id == self._boot and ahead > 0:
            return now + ahead
        self._wake_at = None
        self._wake("wake_at")
        return float("inf")

    def _step_session(self, now: float) -> float:
        self._outbox.pump()
        if self._presence.due(now):
            self._session.publish_presence(True)
        self._awaited &= self._inbox.names
        if self._awaited and now >= self._ask_again_at:
            self._session.subscribe(self._awaited)
            self._ask_again_at = now + self._tuning.ask_again
        if now >= self._listen_again_at:
            self._session.subscribe(self._inbox.names)
            self._listen_again(now)
        ask_again = self._ask_again_at if self._awaited else float("inf")
        return min(self._presence.due_at, ask_again, self._listen_again_at)

    def _listen_again(self, now: float) -> None:
        """Subscribe to everything again in some hours: a broker may have lost what it should pass on."""
        span = self._tuning.listen_again
        self._listen_again_at = now + span / 2 + full_jitter(0, span / 2, span)

    def _await(self, names: set[str]) -> None:
        """Subscribe to these again after a while, and again, until they have been let in."""
        if names:
            self._awaited |= names
            self._ask_again_at = time.monotonic() + self._tuning.ask_again

    def _wake(self, reason: str) -> None:
        self._waker.request(reason)
        self._busy_until = time.monotonic() + self._tuning.busy_for

    # What the session tells (SessionUser)

    def session_up(self) -> None:
        self._session.subscribe(self._inbox.names)
        self._session.publish_presence(True)
        self._publish_status()
        self._outbox.begin()
        self._fetcher.try_again()
        self._listen_again(time.monotonic())

    def subscribed(self) -> None:
        self._tell_link()

    def session_down(self) -> None:
        self._tell_link()

    def received(self, topic: str, payload: bytes) -> None:
        if topic == self._inbox.presence:
            self._presence.heard(payload)
        elif topic not in self._inbox.names or self._gate.passes(topic, payload, time.monotonic()):
            self._let_in(topic, payload)

    def _step_held(self, now: float) -> float:
        """Let in what a flood held up."""
        for topic, payload in self._gate.over(now):
            self._let_in(topic, payload)
        return self._gate.due_at

    def _let_in(self, topic: str, payload: bytes) -> None:
        try:
            kind = self._inbox.received(topic, payload)
        except OSError as error:
            # All that is let in is retained: subscribing again brings it again.
            log.error("event=not_kept device=%s topic=%s error=%a", self._config.device, topic, error)
            self._gate.forget(topic)
            self._await({topic})
            return
        self._awaited.discard(topic)
        if kind is not None and kind is not Kind.HEARTBEAT:
            self._wake(kind)

    def acknowledged(self, mid: int) -> None:
        self._outbox.acknowledged(mid)
        self._presence.acknowledged(mid)

    # What goes out

    def _send_event(self, payload: bytes) -> int | None:
        return self._session.publish(self._events_topic, payload, qos=1, retain=False)

    def _publish_status(self) -> None:
        if self._status is not None:
            status, attestation = self._status
            self._session.publish(self._status_topic, status, qos=1, retain=True)
            self._session.publish(self._attestation_topic, attestation, qos=1, retain=True)

    def _publish_progress(self, want: BlobWant, have: int) -> None:
        progress = {"sha256": want.sha256, "have": have, "length": want.length}
        payload = json.dumps(progress, separators=(",", ":")).encode()
        self._session.publish(self._progress_topic, payload, qos=0, retain=False)

    def _tell_link(self) -> None:
        try:
            self._spool.write_link(Link(self._session.hearing, round(boottime(), 3), self._boot))
        except OSError as error:
            log.error("event=link_not_told device=%s error=%a", self._config.device, error)

    # The end

    def _farewell(self) -> None:
        """End the worker, send what it left, and say `offline` until the broker repeats it."""
        self._fetcher.stop()
        if self._runner is not None:
            self._runner.finish(self._tuning.worker_stop)
        self._look(time.monotonic())
        until = time.monotonic() + self._tuning.farewell
        if self._session.up:
            self._outbox.pump()
        self._wait_while(lambda: self._outbox.sending, until)
        # Our own presence comes back to us: only then has the broker not just acknowledged but kept it.
        self._presence.leave(self._session.publish_presence(False))
        self._wait_while(lambda: self._presence.leaving, until)

    def _wait_while(self, unfinished: Callable[[], bool], until: float) -> None:
        while self._session.up and unfinished() and time.monotonic() < until:
            self._wait(until)
            if self._session.up:
                self._outbox.pump()

    def _end(self) -> None:
        self._fetcher.stop()
        self._session.close()
        with suppress(OSError):
            self._outbox.flush(time.monotonic(), force=True)
        self._tell_link()
        with self._bell_lock:
            bell, self._bell = self._bell, -1
            os.close(bell)
