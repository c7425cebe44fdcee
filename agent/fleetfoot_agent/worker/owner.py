"""What the owner of the device has a say in besides rules: when, whether at all, and not all at once.

    <state>/worker/consent.json    the owner's answers: component -> release and answer
    <state>/worker/asked.json      since when a component waits for its turn: a restart changes nothing

An answer is about one release, named by its digest: another one is asked about anew.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_protocol import times
from fleetfoot_protocol.admission import position
from fleetfoot_protocol.allow import Permission
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.fields import Digest, Id, Uint
from fleetfoot_protocol.resolve import Plan

Answer = Literal["accept", "refuse", "defer"]
CONSENT, ASKED = "consent.json", "asked.json"

_CAP = 64 * 1024
#: Seconds after which a clock that is behind the signed time is looked at again.
_CLOCK_LOOK = 60


class Consent(BaseModel):
    """The owner's answer about the release `digest`, given at unix second `at`."""

    digest: Digest
    answer: Answer
    at: Uint = 0


class _Asked(BaseModel):
    """What a component waits its turn for, and since when: unix seconds."""

    key: Annotated[str, Field(max_length=64)]
    since: Uint


class _Consents(RootModel[dict[Id, Consent]]):
    pass


class _AskedAll(RootModel[dict[Id, _Asked]]):
    pass


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What holds at this moment. window_opens, turn_comes: unix seconds, None for never or not known."""

    window_open: bool = True
    window_opens: int | None = None
    consent: Answer = "accept"
    splay_over: bool = True
    turn_comes: int | None = None

    def look_at(self, code: Code | None) -> int | None:
        """When to look again after a deferral with this code; None if somebody will say so."""
        return {Code.UPGRADE_WINDOW_CLOSED: self.window_opens, Code.UPGRADE_SPLAY: self.turn_comes}.get(
            code or Code.UPGRADE_INTERNAL
        )

    def explain(self, permission: Permission) -> str:
        """The reason of a deferral, with the time at which it ends."""
        at = self.look_at(permission.code)
        return permission.reason if at is None else f"{permission.reason}, until {times.to_text(at)}"


def circumstances(
    config: AgentConfig, component: str, plan: Plan, now: int, floor: int, *, note: bool
) -> Circumstances:
    """What holds for `plan` at `now`, unix seconds; `floor`: no signed document is from later than that.

    note: remember since when the component waits for its turn; else nothing is written.
    """
    policy, goal = config.policy, plan.goal
    if goal is None:
        return Circumstances()
    opened, opens = True, None
    if policy.windows and now < floor:
        opened, opens = False, now + _CLOCK_LOOK  # whatever the clock says, it is not that
    elif policy.windows:
        from fleetfoot_agent import windows

        found = windows.look(policy.windows, now)
        opened, opens = found.open, None if found.open else found.until
    turn = None
    if policy.splay:
        key = plan.rollout or goal.digest
        share = int(position(key, config.device), 16) * policy.splay >> 64
        turn = _since(config.worker_dir, component, key, now, note=note) + share
    return Circumstances(
        window_open=opened,
        window_opens=opens,
        consent=consent(config, component, goal.digest),
        splay_over=turn is None or now >= turn,
        turn_comes=turn,
    )


def consent(config: AgentConfig, component: str, digest: str) -> Answer:
    """The owner's answer about a release; without one it is put off, if the owner wants to be asked."""
    answer = _consents(config.worker_dir).get(component)
    if answer is not None and answer.digest == digest:
        return answer.answer
    return "defer" if config.policy.consent else "accept"


def keep_consent(config: AgentConfig, component: str, answer: Consent) -> None:
    """Keep the owner's answer. Raises `OSError`."""
    kept = {name: c for name, c in _consents(config.worker_dir).items() if name in config.components}
    data = _Consents({**kept, component: answer}).model_dump_json().encode()
    durable.write_file(config.worker_dir / CONSENT, data, 0o600)


def _consents(folder: Path) -> dict[str, Consent]:
    data = durable.read_regular(folder, CONSENT, _CAP)
    try:
        return {} if data is None else _Consents.model_validate(json.loads(data), strict=True).root
    except ValueError:
        return {}  # nothing intelligible was said: the owner is asked again


def _since(folder: Path, component: str, key: str, now: int, *, note: bool) -> int:
    """Since when the component waits for its turn in this; now, if it is new or the clock went back."""
    data = durable.read_regular(folder, ASKED, _CAP)
    try:
        known = {} if data is None else _AskedAll.model_validate(json.loads(data), strict=True).root
    except ValueError:
        known = {}
    found = known.get(component)
    if found is not None and found.key == key and found.since <= now:
        return found.since
    if note:
        fresh = _AskedAll({**known, component: _Asked(key=key, since=now)})
        durable.write_file(folder / ASKED, fresh.model_dump_json().encode(), 0o600)
    return now
