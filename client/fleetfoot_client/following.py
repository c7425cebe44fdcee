"""Following a rollout by its retained progress topics until it ends or stands still.

A progress message counts only with its attestation by the director. Where the broker loses one, the
manager is asked again after some silence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fleetfoot_client.link import deadline
from fleetfoot_client.rows import RolloutRow, parse
from fleetfoot_client.session import Message, Session
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState
from fleetfoot_protocol.topics import Kind

#: Seconds of silence after which the manager is asked.
ASK_AFTER = 15.0
_ASK_TIMEOUT = 5.0

#: States in which nothing goes on until somebody decides.
STANDING = frozenset({RolloutState.PAUSED, RolloutState.TRIPPED})


@dataclass(frozen=True, slots=True)
class View:
    """A rollout at one moment. `waves`: cumulative device counts; `wave`: how many of them are open."""

    rollout: str
    component: str
    version: str
    state: str
    reason: str
    revision: int
    wave: int
    waves: tuple[int, ...]
    total: int
    counts: dict[str, int]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in [state for state in RolloutState if state.ended]

    @property
    def standing(self) -> bool:
        """Whether it waits for somebody's decision."""
        return self.state in STANDING


@dataclass(slots=True)
class _Part:
    """The newest progress and attestation of one group, which arrive as two messages."""

    payload: bytes | None = None
    attestation: bytes | None = None


@dataclass(slots=True)
class _Follower:
    session: Session
    rollout: str
    newest: View
    parts: dict[str, _Part] = field(default_factory=dict)

    def take(self, message: Message) -> View | None:
        """The view that a message completes, if it is attested, about this rollout and not older."""
        part = self.parts.setdefault(message.topic.group, _Part())
        if message.topic.kind is Kind.ROLLOUT:
            part.payload = message.payload
        elif message.topic.kind is Kind.ROLLOUT_ATTESTATION:
            part.attestation = message.payload
        if not part.payload or not part.attestation:
            return None
        try:
            progress = trust.verify_progress(part.payload, part.attestation, self.session.root)
        except FleetfootError:
            return None  # forged, or one of the two is about to be followed by the other
        said = (progress.fleet, progress.rollout, progress.group)
        if said != (self.session.root.fleet, self.rollout, message.topic.group):
            return None
        return self.accept(_view(progress.model_dump(mode="json")))

    def ask(self) -> View | None:
        """The manager's own word; None if it does not answer or says nothing new."""
        try:
            result = self.session.request(
                "rollout.show", arguments={"rollout": self.rollout}, timeout=_ASK_TIMEOUT
            )
        except FleetfootError:
            return None  # it may be starting again; the topics go on
        return self.accept(_view(result))

    def accept(self, view: View) -> View | None:
        if view == self.newest or view.revision < self.newest.revision:
            return None
        self.newest = view
        return view


def follow(
    session: Session,
    rollout: str,
    *,
    timeout: float | None = None,
    until_end: bool = False,
    reply_timeout: float = 15.0,
) -> Iterator[View]:
    """Views of the rollout, the present one first, each different from the one before.

    Ends after the view in which it has ended, or stands (paused, tripped) unless `until_end`.
    FleetfootError `timeout` after that many seconds; errors of `Session.request` for the first view.
    """
    left = deadline(timeout)
    first = session.request("rollout.show", arguments={"rollout": rollout}, timeout=reply_timeout)
    follower = _Follower(session, rollout, _view(first))
    session.watch(
        *(
            session.topic(kind, group=group, rollout=rollout)
            for group in parse(RolloutRow, first).groups
            for kind in (Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION)
        )
    )
    view: View | None = follower.newest
    while True:
        if view is not None:
            yield view
            if view.ended or (view.standing and not until_end):
                return
        remaining = left()
        if remaining == 0:
            raise FleetfootError(
                "timeout",
                f"rollout {rollout} is {follower.newest.state} after {timeout:g} s",
                remedy="watch it again, or look at it with 'fleetfoot rollout show'",
            )
        message = session.next_message(ASK_AFTER if remaining is None else min(ASK_AFTER, remaining))
        view = follower.take(message) if message is not None else follower.ask()


def _view(value: dict[str, Any]) -> View:
    row = parse(RolloutRow, value)
    return View(
        rollout=row.rollout,
        component=row.component,
        version=row.version,
        state=row.state,
        reason=row.reason,
        revision=row.revision,
        wave=row.wave,
        waves=row.waves,
        total=row.total,
        counts=dict(row.counts),
    )
