"""A manager: the real engine on a real store, turned by virtual time, killed wherever the story says."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from fleetfoot_manager.engine import Engine, Input
from fleetfoot_manager.faults import Faults, Stage
from fleetfoot_manager.happenings import Acknowledged, Arrived, Connected, Disconnected, Subscribed
from fleetfoot_manager.locks import LOCK_NAME
from fleetfoot_manager.store import Store
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim.world.fleet import Fleet
from fleetfoot_sim.world.timeline import Timeline
from fleetfoot_sim.world.wire import Broker, Wire

_TURN_SECONDS = 0.2


class Killed(BaseException):
    """The manager is killed here: nothing catches it."""


class Death(Faults):
    """Kills at the nth effect that passes one of the stages, whatever its name."""

    def __init__(self) -> None:
        super().__init__()
        self.at: Stage | None = None
        self.left = 0

    def hit(self, stage: Stage, effects: Iterable[str]) -> None:
        """Pass a fault point."""
        if stage is not self.at:
            return
        self.left -= sum(1 for _ in effects)
        if self.left <= 0:
            self.at = None
            raise Killed


class Manager:
    """One process of the manager. `turned` is told after each turn that was not its last."""

    def __init__(
        self,
        name: str,
        folder: Path,
        fleet: Fleet,
        time: Timeline,
        broker: Broker,
        draw: random.Random,
        turned: Callable[["Manager"], None],
    ) -> None:
        self.name = name
        self.death = Death()
        self.alive = True
        self._time = time
        self._broker = broker
        self._turned = turned
        self._inbox: list[Input] = []
        self._wire: Wire | None = None
        self._session = 0
        self._mid = 0
        self._due: float | None = None
        # A twin has its own machine, and so another file for a lock: only the lease is common.
        (folder / LOCK_NAME).unlink(missing_ok=True)
        self.store = Store(folder)
        self.store.acquire()
        house = fleet.house(folder, faults=self.death, entropy=draw)
        # Two messages at once are load here, so that what load changes is met in every run.
        self.engine = Engine(self.store, house, clock=lambda: time.now, loaded=2)
        self.engine.begin(self)
        self.connect()

    # --- the connection ------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new session; the one before is over."""
        if self._wire is not None:
            self._broker.cut(self._wire)
            self._put(Disconnected(self._session))
        self._session += 1
        session = self._session
        self._wire = self._broker.connect(self.name, self._arrived)
        self._put(Connected(session))
        self._put(Subscribed(session))

    def publish(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> int | None:
        """As the transport of an engine."""
        wire, session = self._wire, self._session
        if wire is None or not wire.up:
            return None
        self._mid += 1
        mid = self._mid
        self._broker.publish(
            wire,
            topic,
            payload,
            retained=retained,
            acknowledge=lambda: self._put(Acknowledged(session, mid)),
        )
        return mid

    def subscribe(self, filters: Iterable[str]) -> None:
        """As the transport of an engine."""
        if self._wire is not None and self._wire.up:
            self._broker.subscribe(self._wire, filters)

    def fetch(self, topics: Iterable[str]) -> None:
        """As the transport of an engine."""
        if self._wire is not None and self._wire.up:
            self._broker.subscribe(self._wire, topics, keep=False)

    def evict(self, *_: object, **__: object) -> None:
        """Nobody is put out of this broker."""

    def _arrived(self, topic: str, payload: bytes, kept: bool) -> None:
        self._put(Arrived(topic, payload, kept))

    # --- turns ---------------------------------------------------------------------------------------

    def _put(self, item: Input) -> None:
        self._inbox.append(item)
        self._plan(self._time.now + _TURN_SECONDS)

    def _plan(self, moment: float) -> None:
        if self.alive and (self._due is None or moment < self._due):
            self._due = moment
            self._time.at(moment, lambda: self._turn(moment))

    def _turn(self, planned: float) -> None:
        if not self.alive or self._due != planned:
            return
        self._due = None
        batch, self._inbox = self._inbox, []
        try:
            self.engine.turn(batch)
        except Killed:
            self.kill()
        except FleetfootError as error:
            if error.code != "store_taken":
                raise
            self.kill()  # somebody has taken the lease
        else:
            self._turned(self)
            self._plan(max(self._time.now + _TURN_SECONDS, self.engine.next_deadline()))

    def kill(self) -> None:
        """The process is gone, with its session."""
        if not self.alive:
            return
        self.alive = False
        if self._wire is not None:
            self._broker.cut(self._wire)
        self.store.close()
        self.engine.desk.close()
