"""What a person can do with a rollout in which state, and with which key: one literal table. Pure.

The manager has the last word; the table keeps the screen from offering what it would refuse.
"""

from typing import NamedTuple

from fleetfoot_client.rows import RolloutRow
from fleetfoot_protocol.states import RolloutState
from fleetfoot_tui.dialogs import Deed, must_type

_S = RolloutState
_OPEN = frozenset({_S.RUNNING, _S.SETTLING})
_LIVE = _OPEN | {_S.PAUSED, _S.TRIPPED}
_WAITS = frozenset({_S.PLANNED, _S.AWAITING_APPROVAL})


class Act(NamedTuple):
    """`decision` is the argument of `rollout.decide`; `confirmed`: asked for again before it is done.

    `awaits`: only of a rollout that stands for this word of a person; `-`: only of one that stands for none.
    """

    key: str
    name: str
    label: str
    verb: str
    decision: str
    states: frozenset[RolloutState]
    confirmed: str
    awaits: str = ""


ACTS: tuple[Act, ...] = (
    Act("p", "pause", "Pause", "rollout.pause", "", _OPEN, ""),
    Act("r", "resume", "Resume", "rollout.resume", "", frozenset({_S.PAUSED}), "", "-"),
    Act("v", "activate", "Activate", "rollout.activate", "", frozenset({_S.PAUSED}),
        "What everybody has staged is activated, wave by wave.", "activation"),
    Act("o", "approve", "Approve", "rollout.approve", "", frozenset({_S.AWAITING_APPROVAL, _S.PAUSED}),
        "Its next wave opens at once.", "approval"),
    Act("c", "continue", "Continue", "rollout.decide", "continue", frozenset({_S.TRIPPED}),
        "It goes on to more devices, counting failures anew."),
    Act("b", "rollback", "Roll back", "rollout.decide", "rollback", _LIVE,
        "The release is withdrawn; devices that run it go back."),
    Act("a", "abort", "Abort", "rollout.decide", "abort", frozenset({_S.TRIPPED}),
        "It ends here; who has moved stays."),
    Act("t", "retry", "Retry", "rollout.retry", "", frozenset({_S.RUNNING, _S.PAUSED, _S.TRIPPED}),
        "Devices that refused the release after a failure try it again."),
    Act("x", "cancel", "Cancel", "rollout.cancel", "", _OPEN | _WAITS | {_S.PAUSED, _S.TRIPPED},
        "It ends without being undone; who has moved stays."),
)  # fmt: skip
BY_NAME = {act.name: act for act in ACTS}


def possible(name: str, row: RolloutRow) -> bool:
    """Whether the act is one that the rollout takes as it stands."""
    act = BY_NAME[name]
    return row.state in act.states and act.awaits in ("", row.awaits or "-")


def deed(act: Act, row: RolloutRow) -> Deed:
    """The question before it is done: what, to how many, of which version, in which group."""
    groups = " ".join(row.groups)
    reached = sum(
        row.counts.get(state, 0) for state in ("healthy", "active", "staged", "failed", "rolled_back")
    )
    return Deed(
        f"{act.label} rollout {row.rollout}?",
        (
            ("devices", f"{row.total}, of which {reached} were reached"),
            ("version", f"{row.component} {row.version}"),
            ("groups", groups),
            ("", act.confirmed),
        ),
        act.label,
        must_type(row.total, groups),
    )
