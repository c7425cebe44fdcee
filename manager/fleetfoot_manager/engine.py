"""The engine: one thread that owns the store, and everything that happens goes through its queue.

A batch of inputs (whatever waits, at most 2000; under load waited for, 50 ms) is one transaction; each input
from which something may follow is a step of it, so that one that fails is dropped alone. Only after the
commit is anything published, and always from stored bytes. A row leaves the outbox when the broker has
acknowledged it; on every connection what is left is sent again. Time is looked at when the next deadline
comes and at least every second; for a rollout it goes on only as far as everything was heard that has come.

A store that fails ends the engine: a manager that cannot remember must not decide.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.exc import OperationalError

from fleetfoot_manager import agenda, documents, keyring, rollout, rollout_rows
from fleetfoot_manager.claims import MAX_CLAIMS, Claim
from fleetfoot_manager.database import FATAL
from fleetfoot_manager.errands import Errand
from fleetfoot_manager.faults import Stage
from fleetfoot_manager.happenings import (
    Arrived,
    Happening,
    Transport,
)
from fleetfoot_manager.house import House
from fleetfoot_manager.inbox import Inbox
from fleetfoot_manager.ingest import Ingest, Pair
from fleetfoot_manager.outlet import Outlet
from fleetfoot_manager.reassert import Reassertion
from fleetfoot_manager.registry import Registry
from fleetfoot_manager.requests import chains
from fleetfoot_manager.requests.desk import Desk, Examined
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.store import REQUESTS_SINCE, Store, get_meta
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind, Topic

log = logging.getLogger(__name__)

MAX_BATCH = 2000
#: So many inputs at once are load: from there on what decides nothing is verified later.
LOADED = 200
BATCH_SECONDS = 0.05
QUEUE_LENGTH = 20_000
#: Claims that are verified in one turn when there is time: some 50 ms, which what comes then has to wait.
_JUDGED_AT_ONCE = 500
_TICK_SECONDS = 1.0
#: By so much at most the time of rollouts stays behind when more comes than can be taken in: a flood must not
#: stop it.
_MOST_BEHIND = 300.0
_TIDY_ROWS = 200
_TELL_SECONDS = 60.0

_OF_DEVICES = frozenset({Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE})


@dataclass(frozen=True, slots=True)
class Stop:
    """The engine should end, in order."""


Input = Happening | Examined | Errand[Any] | Stop


class Engine:
    """Start it with `start`, hand it inputs with `put`, end it with `stop`.

    clock: unix seconds; loaded: so many inputs at once are load. `listening` is set once devices and
    operators are heard. `failure` is the error that ended the engine, if one did; `on_end` is called whenever
    it has ended.
    """

    def __init__(
        self,
        store: Store,
        house: House,
        *,
        clock: Callable[[], float] = time.time,
        loaded: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.failure: BaseException | None = None
        #: When the engine last looked up, by the monotonic clock: at rest every second.
        self.pulse = time.monotonic()
        self.ingest = Ingest()
        self.desk = Desk(self.put)
        self.dropped: Counter[str] = Counter()
        self._store = store
        self._house = house
        self._clock = clock
        self._loaded = LOADED if loaded is None else loaded
        self._on_end = on_end
        self._inbox: Inbox[Input] = Inbox(QUEUE_LENGTH)
        self._busy = False
        self._heard_until = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._live: dict[str, Rollout] = {}
        self._registry = Registry()
        self._ticks: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self.reassertion = Reassertion(house)
        self._outlet = Outlet(store, house, self.reassertion)
        self.listening = self._outlet.listening
        self._agenda = agenda.Agenda(house)
        self._ending = False
        self._closed = False
        self._told: Counter[str] = Counter()
        self._tell_next = 0.0

    # --- from outside --------------------------------------------------------------------------------

    @property
    def live(self) -> list[Rollout]:
        """The rollouts that have not ended, as the last transaction left them."""
        return list(self._live.values())

    def put(self, item: Input) -> None:
        """Hand in what has happened, from any thread. Waits while the queue is full."""
        self.put_all([item])

    def put_all(self, items: Sequence[Input]) -> None:
        """Hand in a burst."""
        while not self._closed and not self._inbox.put(items, _TICK_SECONDS):
            pass

    @property
    def queued(self) -> int:
        """How many inputs wait."""
        return len(self._inbox)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._outlet.connected

    def passed_over(self) -> Counter[str]:
        """What counted for nothing since the start, by why."""
        return self.dropped + self.ingest.ignored + self.desk.ignored + self.reassertion.counts

    def start(self, transport: Transport) -> None:
        """Load what was going on and go on with it; raises FleetfootError if the store cannot be used."""
        self.begin(transport)
        self._thread.start()

    def begin(self, transport: Transport) -> None:
        """As `start`, but without a thread: whoever calls this calls `turn` too."""
        self._outlet.transport = transport
        with self._store.read() as tx:
            self._live = {of.id: of for of in rollout_rows.load(tx, live=True)}
            self._registry.claims.load(tx)
            self.desk.since = float(get_meta(tx, REQUESTS_SINCE) or 0)
        for of in self._live.values():
            log.info("rejoined rollout=%s state=%s wave=%d", of.id, of.state, of.wave)
        with self._transaction() as work:
            self._agenda.at_start(work)

    def stop(self, timeout: float = 10.0) -> None:
        """Take in what waits in the queue, then end; `timeout` in seconds."""
        if self._thread.is_alive():
            self.put(Stop())
            self._thread.join(timeout)
        self.desk.close()

    # --- the loop ------------------------------------------------------------------------------------

    def turn(self, batch: list[Input]) -> None:
        """Take in a batch and whatever time has brought; then publish what was decided."""
        self._process(batch)
        self._outlet.pump(self._clock())

    def _run(self) -> None:
        try:
            while not self._ending:
                self.pulse = time.monotonic()
                self.turn(self._collect())
        except BaseException as error:
            self.failure = error
            log.critical("the engine ends: %s", error, exc_info=not isinstance(error, FleetfootError))
        finally:
            self._outlet.farewell(self._clock(), partial(self._inbox.take, MAX_BATCH))
            self._closed = True
            self._on_end()

    def _collect(self) -> list[Input]:
        """Whatever waits; blocks until something comes or time has to be looked at."""
        wait = min(_TICK_SECONDS, max(0.0, self.next_deadline() - self._clock()))
        # A batch that was large is followed by more: it is worth the wait for a large one again.
        enough = self._loaded if self._busy else 1
        batch = self._inbox.take(MAX_BATCH, wait, enough=enough, patience=BATCH_SECONDS)
        self._busy = len(batch) >= self._loaded
        return batch

    def next_deadline(self) -> float:
        """When a turn is due although nothing has come, unix seconds."""
        moments = [self._planned(), *self._ticks.values()]
        if self._registry.behind:
            moments.append(self._clock())
        if self._outlet.open:
            moments.append(self.reassertion.next_deadline())
        return min(moments)

    def _heard(self, now: float) -> float:
        """Up to when everything that came was taken in, with this batch.

        By what still waits in the queue nobody is silent and no wave has settled.
        """
        if not len(self._inbox):
            self._heard_until = now
        return min(now, max(self._heard_until, now - _MOST_BEHIND))

    def _planned(self) -> float:
        return min(self._agenda.next_deadline(), self._registry.bouncer.next_deadline())

    def _process(self, batch: list[Input]) -> None:
        decisive = [item for item in batch if type(item) is Arrived or not self._note(item)]
        now = self._clock()
        heard = self._heard(now)
        overdue = [name for name, due in self._ticks.items() if due <= heard]
        # Acknowledgements alone are no reason to write; a row that is sent twice does no harm.
        acknowledged = self._outlet.acknowledged
        tidy = acknowledged and (not batch or len(acknowledged) >= _TIDY_ROWS)
        if not (decisive or overdue or tidy or self._registry.behind or self._planned() <= now):
            return
        with self._transaction() as work:
            documents.acknowledged(work.tx, acknowledged)
            parsed = [
                self._house.parse(item.topic) if isinstance(item, Arrived) else None for item in decisive
            ]
            speakers = (t.device for t in parsed if t is not None and t.kind in _OF_DEVICES)
            self._registry.expect(work.tx, speakers)
            hurried = work.hurried = len(decisive) >= self._loaded and not self._ending
            for item, topic in zip(decisive, parsed, strict=True):
                if isinstance(item, Arrived) and topic is not None and topic.kind in _OF_DEVICES:
                    self._hear_device(work, topic, item, hurried)
                else:
                    self._guarded(work, type(item).__name__, partial(self._take, work, item, topic))
            if not hurried:
                self._judge(work, self._registry.claims.take(work.tx, _JUDGED_AT_ONCE))
            for name in overdue:
                # What fails is not tried again at once.
                if not self._guarded(work, "Tick", partial(self._tick, work, name, heard)):
                    self._not_before[name] = now + _TICK_SECONDS
            self._guarded(work, "chains", partial(chains.follow, work))
            work.evictions += self._registry.bouncer.due(now)
            self._guarded(work, "agenda", partial(self._agenda.act, work))
            self._guarded(work, "freshness", partial(self.reassertion.overdue, work))
        acknowledged.clear()
        for item in decisive:
            if isinstance(item, Errand):
                item.settle()
        self._tell_counts(now)

    def _tell_counts(self, now: float) -> None:
        """Say in the log, once a minute at most, what was passed over since."""
        if now < self._tell_next:
            return
        counts = self.passed_over()
        if counts != self._told:
            text = (f"{what.replace(' ', '_')}={count}" for what, count in sorted(counts.items()))
            log.info("passed over %s", " ".join(text))
        self._told = counts
        self._tell_next = now + _TELL_SECONDS

    def _note(self, item: Input) -> bool:
        """Take in what changes nothing in the store; whether it was that."""
        if isinstance(item, Stop):
            self._ending = True
            return True
        return self._outlet.note(item)

    @contextmanager
    def _transaction(self) -> Iterator[Work]:
        with self._store.write() as tx:
            work = Work(self._store, tx, self._house, self._live, self._registry, self._clock())
            yield work
            work.finish()
        self._live = work.rollouts
        self._plan_ticks()
        self._outlet.hear([*work.newcomers, *work.unheard])
        self._remember(work.enrolments)
        self._outlet.turn_away(work.evictions)
        if work.effects:
            self._house.faults.hit(Stage.AFTER_COMMIT, work.effects)
            self._outlet.pump(self._clock())
            self._house.faults.hit(Stage.AFTER_PUBLISH, work.effects)

    def _remember(self, enrolments: list[dict[str, Any]]) -> None:
        if not enrolments:
            return
        try:
            keyring.append(self._house.folder, enrolments)
        except OSError as error:
            # Made good at the next start; nothing is decided by it while the store is there.
            log.warning("keys of devices are not kept beside the store: %s", error)

    def _plan_ticks(self) -> None:
        """When each live rollout has to be told the time."""
        self._not_before = {name: when for name, when in self._not_before.items() if name in self._live}
        deadlines = ((name, rollout.next_deadline(of)) for name, of in self._live.items())
        self._ticks = {
            name: max(due, self._not_before.get(name, due)) for name, due in deadlines if due is not None
        }

    def _guarded(self, work: Work, what: str, act: Callable[[], None], writes: bool = True) -> bool:
        """One step; what is wrong with it is logged and ends nothing but the step. Whether it went well."""
        try:
            with work.step(writes=writes):
                act()
            return True
        except Exception as error:
            self._drop(what, error)
        return False

    def _drop(self, what: str, error: Exception) -> None:
        """Go on without an input; raises `error` if it says that the store is of no use."""
        if isinstance(error, OperationalError):
            raise error
        if not isinstance(error, FleetfootError):
            self.dropped[what] += 1
            log.error("dropped input=%s", what, exc_info=error)
        elif error.code in FATAL:
            raise error
        else:
            self.dropped[error.code] += 1
            log.warning("dropped input=%s code=%s: %s", what, error.code, error.message)

    def _take(self, work: Work, item: Input, topic: Topic | None) -> None:
        if not isinstance(item, Arrived) or topic is None or topic.kind is Kind.REQUESTS:
            # Who asks is told of what has been verified, and it is as much as can be.
            self._judge(work, self._registry.claims.take(work.tx, MAX_CLAIMS))
            self._registry.flush(work.tx)
        match item:
            case Arrived(_, payload, _):
                self._arrived(work, topic, payload)
            case Examined():
                self.desk.examined(work, item)
            case Errand():
                item.run(work)
            case _:
                raise AssertionError(f"no input of the store: {item!r}")

    def _hear_device(self, work: Work, topic: Topic, item: Arrived, hurried: bool) -> None:
        """What a device says: stored, or judged in a step of its own where something may follow from it."""
        claims = self._registry.claims
        try:
            pair = self.ingest.message(work, topic, item.payload, retained=item.retained)
        except Exception as error:
            self._drop("Arrived", error)
            return
        if topic.kind is Kind.STATUS_ATTESTATION and pair is None and claims.of(topic.device) is not None:
            self._judge(work, claims.take_of(work.tx, topic.device))
        elif pair is not None:
            self._judge(work, claims.take_of(work.tx, topic.device))
            if not (hurried and self.ingest.claim(work, pair)):
                self._judge(work, [pair])

    def _judge(self, work: Work, pairs: Sequence[Pair | Claim]) -> None:
        for pair in pairs:
            self._guarded(work, "status", partial(self.ingest.judge, work, pair), writes=False)

    def _arrived(self, work: Work, topic: Topic | None, payload: bytes) -> None:
        if topic is None:
            self.dropped["foreign topic"] += 1
        elif topic.kind is Kind.REQUESTS:
            self.desk.request(work, topic.operator, payload)
        else:
            self.reassertion.arrived(work, topic, payload)

    def _tick(self, work: Work, name: str, heard: float) -> None:
        if name in work.rollouts:
            work.advance(name, rollout.due(work.rollouts[name], heard))
