"""What bounds a rollout beside its waves: its life, its successes and failures, its rank, who supersedes it.

Looked at behind each turn of the manager, and computed apart from its gate.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_manager.rollout import DeviceRecord, Rollout
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.states import RolloutState, Terminal
from fleetfoot_sim.world.witness import Witness, demand

_S = RolloutState
_FAILED = (Terminal.FAILED, Terminal.ROLLED_BACK)
#: A timer may be a second late, and a turn takes one.
_LATE_SECONDS = 3.0
_OBEYS = "obeys rollout "
_BY = "superseded by "
#: Ended, and whoever had not begun is not to begin any more.
_DISMISSED = (_S.SUPERSEDED, _S.EXPIRED, _S.ABORTED, _S.CANCELED)

#: What was asked for, of the rollout of this id, if that is known.
Asked = Callable[[str], RolloutPlan | None]


class Bounds:
    """Remembers what each rollout was at the turn before."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._before: dict[str, Rollout] = {}
        #: Whether the whole engine was paused at the turn before, and how many waves were open then.
        self.stands = False
        self._waves: dict[str, int] = {}
        #: The waves of a rollout that nobody could prove anything in, and that the next one is judged with.
        self._joined: dict[str, list[int]] = {}

    def turned(
        self,
        live: Sequence[Rollout],
        changed: Sequence[Rollout],
        asked: Asked,
        stored: Callable[[str], Desired | None],
        now: float,
    ) -> None:
        """After each turn: all that live, and those that have changed."""
        for of in live:
            over = of.lives_until is not None and now >= of.lives_until
            demand(not over or of.state is _S.ROLLING_BACK, "lives on beyond its time", of.id, of.state)
            self._check_patience(of, now)
        for of in changed:
            before = self._before.get(of.id)
            self._check_asked(of, asked(of.id))
            self._check_life(of, now)
            self._check_limits(of, before)
            self._check_successes(of, before.wave if before else 0)
            self._check_skipped(of)
        for of in changed:
            self._check_end(of, changed)
            self._check_place(of, live, asked(of.id))
            self._before[of.id] = of
        if changed:
            self._check_ranks(live)
            for group in {group for of in changed for group in of.groups}:
                self._check_order(live, stored(group))

    def halted(self, halted: bool, live: Sequence[Rollout], stored: Callable[[str], Desired | None]) -> None:
        """After each turn: while the whole engine is paused, no rollout goes on, and each order is held."""
        if halted:
            going = [of.id for of in live if of.state in (_S.RUNNING, _S.SETTLING)]
            demand(not going, "goes on while the engine is paused", going)
            waves = {of.id: of.wave for of in live}
            opened = [name for name, wave in waves.items() if wave > self._waves.get(name, wave)]
            demand(not self.stands or not opened, "a wave opens while the engine is paused", opened)
            self._waves = waves
            for group in {group for of in live for group in of.groups}:
                document = stored(group)
                held = document is None or document.hold
                demand(held, "an order is not held while the engine is paused", group)
        self.stands = halted

    # --- what was asked for --------------------------------------------------------------------------

    def _check_asked(self, of: Rollout, asked: RolloutPlan | None) -> None:
        if asked is None or of.withdraws:
            return
        bounds = (of.min_successes, of.failure_percent, of.priority)
        wanted = (asked.min_successes, asked.failure_percent or 0, asked.priority)
        demand(bounds == wanted, "other bounds than were asked for", of.id, bounds, wanted)
        demand((of.lives_until is None) == (asked.ttl is None), "another life than was asked for", of.id)

    def _check_life(self, of: Rollout, now: float) -> None:
        if of.lives_until is not None:
            late = {wave: at for wave, at in of.devices.opened.items() if at >= of.lives_until}
            demand(not late, "a wave opens when its time is over", of.id, late)
        if of.state is _S.EXPIRED:
            demand(of.lives_until is not None and now >= of.lives_until, "expires before its time", of.id)

    def _check_patience(self, of: Rollout, now: float) -> None:
        """Nobody is waited for beyond the device timeout; time under a hold does not count."""
        if of.state is not _S.RUNNING:
            return
        since = [r.since for r in of.devices.values() if r.since is not None and not r.terminal.ended]
        late = [at for at in since if now > max(at, of.unheld or 0.0) + of.device_timeout + _LATE_SECONDS]
        demand(not late, "waits for who is silent", of.id, len(late))

    # --- failures and successes ----------------------------------------------------------------------

    def _check_limits(self, of: Rollout, before: Rollout | None) -> None:
        """Above the limit nothing goes on; and what trips for its failures has as many."""
        failures = sum(record.terminal in _FAILED for record in of.devices.values()) - of.failures_before
        course = self._witness.courses[of.id]
        exposed = course.waves[-1] if course.staged else course.waves[of.wave - 1] if of.wave else 0
        above = bool(of.failure_percent) and failures > of.failure_percent / 100 * exposed
        if of.state in (_S.RUNNING, _S.SETTLING):
            demand(not above, "it goes on above its limit", of.id, failures, exposed, of.failure_percent)
        tripped = of.state is _S.TRIPPED and (before is None or before.state is not _S.TRIPPED)
        if tripped and "ended with" not in of.reason:
            many = bool(of.breaker) and failures >= of.breaker
            demand(many or above, "trips below its limits", of.id, failures, exposed, of.reason)

    def _check_successes(self, of: Rollout, opened: int) -> None:
        """Every wave that is left has as many successes as it needs, or nobody who could have been one."""
        left = of.wave if of.state is _S.COMPLETED else of.wave - 1
        for wave in range(max(opened, 1), left + 1):
            joined = self._joined.setdefault(of.id, [])
            if wave not in joined:
                joined.append(wave)
            members = {d: r for d, r in of.devices.items() if r.wave in joined}
            if members and all(r.terminal is Terminal.SKIPPED for r in members.values()):
                continue
            well = sum(self._is_well(of, device, record) for device, record in members.items())
            staying = sum(not record.gone for record in members.values())
            needed = max(1, min(of.min_successes, staying))
            demand(well >= needed, "a wave is left with too few successes", of.id, wave, well, needed)
            self._joined[of.id] = []

    def _is_well(self, of: Rollout, device: str, record: DeviceRecord) -> bool:
        told = self._witness.ran(device) | self._witness.claimed.get(device, set())
        return of.goal.digest in told and record.terminal not in _FAILED

    # --- several rollouts ----------------------------------------------------------------------------

    def _check_skipped(self, of: Rollout) -> None:
        for device, record in of.devices.items():
            if record.terminal is Terminal.SKIPPED and record.reason.startswith(_OBEYS):
                other = self._before.get(record.reason.removeprefix(_OBEYS))
                higher = other is None or other.priority > of.priority
                demand(higher, "gives way to one that is not above it", of.id, device, record.reason)

    def _check_end(self, of: Rollout, changed: Iterable[Rollout]) -> None:
        if of.state in _DISMISSED:
            asked = [device for device, r in of.devices.items() if r.terminal is Terminal.PENDING]
            demand(not asked, "ends with devices that may begin", of.id, of.state, asked)
        if of.state is _S.SUPERSEDED:
            name = of.reason.removeprefix(_BY)
            by = next((one for one in changed if one.id == name), self._before.get(name))
            demand(by is None or set(of.groups) <= set(by.groups), "superseded in part", of.id, name)

    def _check_place(self, of: Rollout, live: Iterable[Rollout], asked: RolloutPlan | None) -> None:
        """Who starts in the place of others stands alone, but for those that it cannot take the place of."""
        before = self._before.get(of.id)
        starts = of.started is not None and (before is None or before.started is None)
        if not starts or asked is None or not asked.supersede:
            return
        for other in live:
            beside = other.created < of.created and set(other.groups) <= set(of.groups)
            bound = other.state is _S.ROLLING_BACK or other.after
            demand(not beside or bool(bound), "stands beside what it supersedes", of.id, other.id)

    def _check_ranks(self, live: Iterable[Rollout]) -> None:
        """Of two over one group, one has the higher priority; what has not started has no place yet."""
        for one, other in combinations((of for of in live if of.started is not None), 2):
            apart = not set(one.groups) & set(other.groups) or one.priority != other.priority
            demand(apart, "two rollouts of one rank", one.id, other.id, one.priority)

    def _check_order(self, live: Iterable[Rollout], document: Desired | None) -> None:
        ranks = {of.id: of.priority for of in live}
        there = [ranks[t.rollout] for t in (document.targets if document else ()) if t.rollout in ranks]
        demand(there == sorted(there, reverse=True), "the lower stands before the higher", there)
