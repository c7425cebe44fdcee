"""A second pair of eyes on one rollout: what each of its steps may do.

It works from records and a memory of its own. Nothing in here asks the code on trial for its sums, its
judgement of a wave or its deadlines.
"""

from collections.abc import Collection
from dataclasses import dataclass

from tests.manager.rollouts import S, T

from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Away,
    Bless,
    Decide,
    Decision,
    DeviceRecord,
    Joined,
    Left,
    Pause,
    Report,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Tick,
)

FAILED = {T.FAILED, T.ROLLED_BACK}
FINAL = FAILED | {T.HEALTHY}
UNDER_WAY = {S.RUNNING, S.SETTLING}
HELD = {S.PAUSED, S.TRIPPED}
#: A person's word alone lets the next wave out.
WORDS = (Approve, Activate, Bless)
#: No device is left waiting when a rollout ended thus.
DISMISSED = {S.ABORTED, S.CANCELED, S.EXPIRED, S.SUPERSEDED, S.ROLLED_BACK}


def awaited(record: DeviceRecord) -> bool:
    return record.since is not None and record.terminal in (T.PENDING, T.ACTIVE)


def won(record: DeviceRecord) -> bool:
    return record.terminal is T.HEALTHY or (record.terminal is T.SKIPPED and record.on_goal)


def failures(of: Rollout) -> int:
    return sum(record.terminal in FAILED for record in of.devices.values())


def asked(of: Rollout) -> int:
    """Devices of the open waves, or of all where everybody stages first."""
    return of.waves[-1] if of.stage else of.waves[of.wave - 1]


@dataclass
class Watch:
    """`forgiven`: failures that somebody has decided upon. `row`: those since, without a success between.
    `judged_from`: the first wave that has not yet been left with what it needs."""

    forgiven: int = 0
    row: int = 0
    judged_from: int = 1
    unheld: float = float("-inf")
    settles: float = 0.0
    returns: float = 0.0
    came_from: object = None

    def step(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        """One step that was taken. Raises AssertionError for what may not be."""
        self._remember(before, event, after, now)
        self._widening(before, event, after, now)
        self._limits(before, after)
        self._settling(before, event, after, now)
        self._silence(before, event, after, now)
        self._attempts(before, event, after)
        self._ending(before, event, after, now)
        if isinstance(event, Report):
            self._report(before, event, after)

    def _remember(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        if isinstance(event, Report) and event.device in before.devices:
            told = after.devices[event.device].terminal
            if told is not before.devices[event.device].terminal and told in FINAL | {T.STAGED}:
                self.row = self.row + 1 if told in FAILED else 0
        if isinstance(event, Retry) or event == Decide(Decision.CONTINUE):
            left = [r for r in after.devices.values() if r.terminal in FAILED]
            self.forgiven = len(left) if isinstance(event, Retry) else failures(before)
            self.row = 0
        if isinstance(event, Pause):
            self.came_from = before.state
        if (before.state in HELD and after.state not in HELD) or isinstance(event, Retry):
            self.unheld = now
        if after.state is S.SETTLING and before.state is not S.SETTLING:
            self.settles = now + after.settle
        if after.state is S.ROLLING_BACK and before.state is not S.ROLLING_BACK:
            self.returns = now + after.device_timeout

    # --- how many may fail ---------------------------------------------------------------------------

    def _over(self, of: Rollout) -> bool:
        counted = failures(of) - self.forgiven
        if of.breaker and (self.row if of.consecutive else counted) >= of.breaker:
            return True
        return bool(of.failure_percent) and counted * 100 > of.failure_percent * asked(of)

    def _limits(self, before: Rollout, after: Rollout) -> None:
        if after.state in UNDER_WAY and after.started is not None:
            assert not self._over(after), "it goes on past its limits"
        if after.state is S.TRIPPED and before.state is not S.TRIPPED:
            quiet = not any(awaited(record) for record in after.devices.values())
            poor = quiet and not self._enough(after, after.wave)
            assert self._over(after) or poor, "it trips without a reason"

    # --- when a wave opens ---------------------------------------------------------------------------

    def _judged(self, of: Rollout, wave: int) -> list[DeviceRecord]:
        return [r for r in of.devices.values() if self.judged_from <= r.wave <= wave]

    def _enough(self, of: Rollout, wave: int) -> bool:
        if wave == 0:
            return any(won(r) or r.terminal is T.STAGED for r in of.devices.values())
        judged = self._judged(of, wave)
        return sum(map(won, judged)) >= max(1, min(of.min_successes, len(judged)))

    def _nobody_could(self, of: Rollout, wave: int) -> bool:
        judged = self._judged(of, wave) if wave else []
        return bool(judged) and all(r.terminal is T.SKIPPED and not r.gone for r in judged)

    def _widening(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        asks = after.state is S.PAUSED and before.state is not S.PAUSED and not isinstance(event, Pause)
        passes = after.wave - before.wave if before.started is not None else max(0, after.wave - 1)
        assert after.wave >= before.wave
        unasked = isinstance(event, Report | Tick | Joined | Left | Away)
        assert not (before.state in HELD and passes and unasked), "a wave opens under a hold"
        assert not (before.canary and passes) or isinstance(event, Bless), "a wave opens unblessed"
        if after.each_wave and passes and before.wave:
            assert isinstance(event, Approve), "a wave opens unapproved"
        if after.stage == "only" and after.wave and not before.wave:
            assert isinstance(event, Activate), "it activates unbidden"
        ended = after.state is S.COMPLETED and before.state is not S.COMPLETED
        if before.state is S.PAUSED and isinstance(event, WORDS):
            return self._left(after, range(before.wave + 1, after.wave))
        first = before.wave if before.started is not None else (0 if after.stage else 1)
        self._left(after, range(first, after.wave + (1 if asks or ended else 0)))
        if ended:
            assert after.wave == len(after.waves), "completed before its last wave"
        return None

    def _left(self, of: Rollout, waves: range) -> None:
        """These waves are behind: whoever they asked has answered, and enough of them well."""
        for wave in waves:
            members = [r for r in of.devices.values() if 0 < r.wave <= wave or (of.stage and not wave)]
            at_work = [r for r in members if r.terminal in (T.PENDING, T.ACTIVE) and r.since is not None]
            # Whom a later wave asks anew has staged before.
            assert not at_work or (of.stage and wave == 0 and of.wave), "a wave is left while it is at work"
            # Behind the staging: who had staged for the first wave is asked anew by then.
            if self._enough(of, wave) or (wave == 0 and of.wave):
                self.judged_from = wave + 1
                continue
            last = of.state is S.COMPLETED and wave == len(of.waves) and of.passed > 0
            assert wave, "staging is left though nobody has staged"
            assert self._nobody_could(of, wave), "a wave is left without a success"
            assert last or wave < len(of.waves), "the last wave proved nothing, and none before it"

    def _settling(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        on = after.wave > before.wave or after.state is S.COMPLETED
        if before.state is S.SETTLING and on:
            assert now >= self.settles, "it goes on before it has settled"
        if before.state is S.RUNNING and on and after.settle > 0:
            poor = all(r.terminal is T.SKIPPED for r in before.devices.values() if r.wave == before.wave)
            gone = isinstance(event, Report) or poor
            assert before.wave == 0 or gone, "it goes on without having settled"
        if isinstance(event, Resume) and self.came_from is S.SETTLING and after.settle > 0:
            assert not on, "a resume shortens the settling"

    # --- devices -------------------------------------------------------------------------------------

    def _silence(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        limit = now - after.device_timeout
        for device, record in after.devices.items():
            old = before.devices.get(device)
            late = record.since is not None and max(record.since, self.unheld) <= limit
            if old is not None and record.terminal is T.SILENT and old.terminal is not T.SILENT:
                away = isinstance(event, Away) and device in event.devices and old.terminal is T.PENDING
                assert away or (isinstance(event, Tick) and late), "silent before its time"
            if isinstance(event, Tick) and before.state in UNDER_WAY and old is not None:
                assert not (late and awaited(record)), "awaited past its time"
            newly = record.since is not None and (old is None or old.since is None)
            opens = isinstance(event, Joined) or after.wave > before.wave or before.started is None
            assert not newly or opens, "exposed without a wave"
        if isinstance(event, Away) and before.state is S.RUNNING and after.wave == before.wave:
            left = [d for d in event.devices if d in after.devices and awaited(after.devices[d])]
            assert all(after.devices[d].terminal is not T.PENDING for d in left), "waits for who is away"

    def _report(self, before: Rollout, event: Report, after: Rollout) -> None:
        old, new = before.devices.get(event.device), after.devices.get(event.device)
        if old is None or new is None or old.gone:
            assert old == new, "a report of who is not here changes something"
            return
        mine = (event.rollout, event.attempt) == (before.id, before.goal.attempt)
        on_goal = event.running == before.goal.digest
        counts = mine and event.terminal in FINAL and (event.terminal is not T.HEALTHY or on_goal)
        if old.terminal in FINAL:
            assert new.terminal is old.terminal, "an outcome that had won is overridden"
        elif new.terminal in FINAL:
            assert counts, "an outcome counts that is none"
        elif old.since is not None:
            assert not counts, "an outcome does not count"
        assert old.since is None or new.on_goal == on_goal, "what runs is not written down"
        if new.terminal is T.ACTIVE and old.terminal is not T.ACTIVE:
            said = event.terminal if mine else None
            assert said in (T.ACTIVE, T.STAGED), "at work by nobody's word"

    def _attempts(self, before: Rollout, event: RolloutEvent, after: Rollout) -> None:
        assert after.goal.attempt == before.goal.attempt + isinstance(event, Retry)
        for device, record in before.devices.items() if isinstance(event, Retry) else ():
            again = record.since is not None and not record.gone
            if again and record.terminal in FAILED | {T.SILENT}:
                assert after.devices[device].terminal is T.PENDING, "not asked anew"
            else:
                assert after.devices[device].terminal is record.terminal, "asked anew for nothing"

    # --- how it ends ---------------------------------------------------------------------------------

    def _ending(self, before: Rollout, event: RolloutEvent, after: Rollout, now: float) -> None:
        if after.state is S.COMPLETED and before.state is not S.COMPLETED:
            assert not any(map(awaited, after.devices.values())), "completed while devices are awaited"
        if after.state in DISMISSED or after.state is S.ROLLING_BACK:
            stay: Collection[str] = [d for d, r in after.devices.items() if r.terminal is T.PENDING]
            assert not stay, "it waits in what is over"
        back = after.state is S.ROLLED_BACK and before.state is not S.ROLLED_BACK
        records = after.devices.values()
        moved = [r for r in records if r.since and not r.gone and (r.on_goal or r.terminal is T.ACTIVE)]
        if back:
            waited = before.state is S.ROLLING_BACK and now >= self.returns
            assert not moved or waited, "nobody waits for those on their way back"
        if after.state is S.ROLLING_BACK and isinstance(event, Tick | Report):
            assert moved, "everybody is back, and it goes on"
            assert isinstance(event, Report) or now < self.returns, "it waits for ever"
