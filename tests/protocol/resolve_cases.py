"""The cases of `resolve` as a table: every line of contract section 4, and every branch of it.

The device is dev-001, whose position under the salt r-0001 is 0e1fd1929836e7a6.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from tests.protocol.samples import LATER, NOW, digest

from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Device

BELOW, ABOVE = "0e1fd1929836e7a6", "0e1fd1929836e7a7"  # cuts directly before and behind dev-001
ALL, NOBODY = admission.ALL, admission.NOBODY


def goal(
    counter: int, attempt: int = 1, mode: Literal["at_least", "exactly"] = "at_least", name: str = ""
) -> Goal:
    """The goal of release `counter`; `name` tells apart releases of the same counter."""
    version = f"1.{counter}.0"
    release = digest(f"release {counter}{name}")
    return Goal(version=version, counter=counter, digest=release, length=1000, attempt=attempt, mode=mode)


def installed(counter: int, name: str = "") -> Installed:
    """Release `counter` on a device."""
    return Installed(version=f"1.{counter}.0", counter=counter, digest=goal(counter, name=name).digest)


def target(
    to: Goal,
    stage: str = ALL,
    activate: str = ALL,
    *,
    rollout: str = "r-0001",
    hold: bool = False,
    selector: Mapping[str, str] | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Target:
    """A target; admits everybody unless told otherwise."""
    return Target(
        rollout=rollout,
        goal=to,
        selector=dict(selector or {}),
        include=include,
        exclude=exclude,
        salt="r-0001",
        stage_cut=stage,
        activate_cut=activate,
        hold=hold,
    )


def document(
    *targets: Target,
    baseline: Goal | None = None,
    withdrawn: tuple[int, ...] = (),
    hold: bool = False,
    released: bool = False,
    device: str | None = None,
) -> Desired:
    """A desired state; `withdrawn` are counters of releases."""
    return Desired(
        fleet="harbour",
        group="north",
        device=device,
        component="kiosk",
        epoch=1,
        sequence=1,
        issued=NOW,
        expires=LATER,
        targets=targets,
        baseline=baseline,
        withdrawn=tuple(goal(counter).digest for counter in withdrawn),
        hold=hold,
        released=released,
    )


def own(
    *targets: Target, baseline: Goal | None = None, withdrawn: tuple[int, ...] = (), **flags: bool
) -> Desired:
    """The device's own document."""
    return document(*targets, baseline=baseline, withdrawn=withdrawn, device="dev-001", **flags)


def device(
    run: int | None = 2,
    prev: int | None = None,
    *,
    refused: Mapping[int, int] | None = None,
    floor: int = 0,
    labels: Mapping[str, str] | None = None,
) -> Device:
    """dev-001 running release `run`; `refused` maps counters to attempts."""
    return Device(
        id="dev-001",
        labels=dict(labels or {}),
        run=None if run is None else installed(run),
        prev=None if prev is None else installed(prev),
        refused={goal(counter).digest: attempt for counter, attempt in (refused or {}).items()},
        floor=floor,
    )


class Case(NamedTuple):
    """What `resolve` is asked. What it answers stands in the golden vectors."""

    name: str
    group: Desired | None
    own: Desired | None
    device: Device


G3, G2, G1 = goal(3), goal(2), goal(1)
TO_3 = document(target(G3))
CASES: tuple[Case, ...] = (
    # no goal
    Case("nothing was ever ordered", None, None, device()),
    Case("a group document without goals", document(), None, device()),
    Case("not admitted, and no baseline", document(target(G3, BELOW, NOBODY)), None, device()),
    Case("a live device document without goals pins", None, own(), device()),
    Case("a pin outranks the group's target", TO_3, own(), device()),
    Case("a pin outranks the group's baseline", document(baseline=G3), own(), device()),
    # which document
    Case("the device document outranks the group", TO_3, own(baseline=goal(4)), device()),
    Case(
        "a released device document gives way to the group",
        TO_3,
        own(baseline=goal(4), released=True),
        device(),
    ),
    Case("a released device document alone is none", None, own(baseline=goal(4), released=True), device()),
    Case("released means nothing in a group document", document(baseline=G3, released=True), None, device()),
    Case("a device document alone suffices", None, own(target(G3)), device()),
    # which goal
    Case("admitted by the stage and the activate cut", TO_3, None, device()),
    Case("directly below both cuts", document(target(G3, ABOVE, ABOVE)), None, device()),
    Case(
        "exactly on the cut is not below it", document(target(G3, BELOW, BELOW), baseline=G2), None, device()
    ),
    Case("admitted to stage, not to activate", document(target(G3, ALL, BELOW)), None, device()),
    Case("admitted to stage, nobody to activate", document(target(G3, ABOVE, NOBODY)), None, device()),
    Case("not admitted: the baseline", document(target(G3, BELOW, NOBODY), baseline=goal(4)), None, device()),
    Case(
        "the first target that admits decides",
        document(target(G3, rollout="r-0003"), target(goal(4), rollout="r-0004")),
        None,
        device(),
    ),
    Case(
        "a target that does not admit is passed over",
        document(target(G3, BELOW, NOBODY, rollout="r-0003"), target(goal(4), rollout="r-0004")),
        None,
        device(),
    ),
    Case(
        "included beyond the cuts", document(target(G3, NOBODY, NOBODY, include=("dev-001",))), None, device()
    ),
    Case("excluded", document(target(G3, exclude=("dev-001",))), None, device()),
    Case(
        "excluded outranks included",
        document(target(G3, include=("dev-001",), exclude=("dev-001",))),
        None,
        device(),
    ),
    Case(
        "the selector matches",
        document(target(G3, selector={"site": "quay"})),
        None,
        device(labels={"site": "quay", "floor": "2"}),
    ),
    Case(
        "another label value does not match",
        document(target(G3, selector={"site": "quay"})),
        None,
        device(labels={"site": "mole"}),
    ),
    Case("a missing label does not match", document(target(G3, selector={"site": "quay"})), None, device()),
    Case(
        "included, but the selector does not match",
        document(target(G3, selector={"site": "quay"}, include=("dev-001",))),
        None,
        device(),
    ),
    # where the device stands
    Case("the goal runs", TO_3, None, device(3)),
    Case("the goal runs though it was refused", TO_3, None, device(3, refused={3: 1})),
    Case("the goal runs below the floor", TO_3, None, device(3, floor=9)),
    Case("ahead of an at_least goal", TO_3, None, device(4)),
    Case(
        "level with an at_least goal of another digest", document(target(goal(2, name="b"))), None, device(2)
    ),
    Case("down to an exactly goal", document(target(goal(1, mode="exactly"))), None, device(2)),
    Case(
        "level with an exactly goal of another digest",
        document(baseline=goal(2, 1, "exactly", "b")),
        None,
        device(),
    ),
    Case("nothing runs yet", document(baseline=G3), None, device(None)),
    Case("ahead outranks the floor", document(target(G1)), None, device(2, floor=2)),
    Case("below the floor", document(target(goal(1, mode="exactly"))), None, device(2, floor=2)),
    Case("at the floor", document(target(goal(1, mode="exactly"))), None, device(2, floor=1)),
    Case("the floor outranks a refusal", document(baseline=G3), None, device(2, refused={3: 1}, floor=4)),
    # refused before
    Case("refused at this attempt", TO_3, None, device(refused={3: 1})),
    Case("refused at a later attempt", TO_3, None, device(refused={3: 2})),
    Case("a new attempt lifts the refusal", document(target(goal(3, 2))), None, device(refused={3: 1})),
    Case("another release was refused", TO_3, None, device(refused={4: 1})),
    Case("a refusal outranks a hold", document(target(G3, hold=True)), None, device(refused={3: 1})),
    # hold
    Case("the target is on hold", document(target(G3, hold=True)), None, device()),
    Case("the document is on hold", document(baseline=G3, hold=True), None, device()),
    Case("a hold also stops staging", document(target(G3, ALL, NOBODY, hold=True)), None, device()),
    Case("a hold on what runs changes nothing", document(target(G2, hold=True)), None, device()),
    Case(
        "the hold of another target does not matter",
        document(target(G3, BELOW, NOBODY, rollout="r-0003", hold=True), target(goal(4), rollout="r-0004")),
        None,
        device(),
    ),
    Case(
        "the group's hold does not bind the device document", document(hold=True), own(baseline=G3), device()
    ),
    # recall
    Case("recalled: back to the previous", document(withdrawn=(2,)), None, device(2, 1)),
    Case("recalled: previous before baseline", document(baseline=G3, withdrawn=(2,)), None, device(2, 1)),
    Case(
        "recalled, never installed over: the baseline", document(baseline=G1, withdrawn=(2,)), None, device(2)
    ),
    Case(
        "recalled with the previous: the baseline",
        document(baseline=G3, withdrawn=(1, 2)),
        None,
        device(2, 1),
    ),
    Case(
        "recalled, the previous below the floor",
        document(baseline=G3, withdrawn=(2,)),
        None,
        device(2, 1, floor=2),
    ),
    Case(
        "recalled, the previous at the floor",
        document(baseline=G3, withdrawn=(2,)),
        None,
        device(2, 1, floor=1),
    ),
    Case(
        "recalled, the previous refused, by whatever attempt",
        document(baseline=G3, withdrawn=(2,)),
        None,
        device(2, 1, refused={1: 1}),
    ),
    Case(
        "recalled, the baseline refused",
        document(baseline=G3, withdrawn=(2,)),
        None,
        device(2, refused={3: 1}),
    ),
    Case(
        "recalled, a new attempt at the refused baseline",
        document(baseline=goal(3, 2), withdrawn=(2,)),
        None,
        device(2, refused={3: 1}),
    ),
    Case(
        "recalled, the baseline below the floor",
        document(baseline=G1, withdrawn=(2,)),
        None,
        device(2, floor=2),
    ),
    Case(
        "recalled, the own baseline first", document(baseline=G1, withdrawn=(2,)), own(baseline=G3), device(2)
    ),
    Case(
        "recalled, the own baseline refused: the group's",
        document(baseline=G1, withdrawn=(2,)),
        own(baseline=G3),
        device(2, refused={3: 1}),
    ),
    Case(
        "recalled, the own baseline withdrawn by the group: the group's",
        document(baseline=G1, withdrawn=(2, 3)),
        own(baseline=G3),
        device(2),
    ),
    Case("recalled: no way back", document(withdrawn=(2,)), None, device(2)),
    Case("recalled: a target is no way back", document(target(G3), withdrawn=(2,)), None, device(2)),
    Case("recall outranks a target", document(target(G3), withdrawn=(2,)), None, device(2, 1)),
    Case("recall outranks a hold", document(baseline=G3, withdrawn=(2,), hold=True), None, device(2)),
    Case("recall outranks a pin", document(baseline=G1, withdrawn=(2,)), own(), device(2)),
    Case("the own document recalls too", TO_3, own(withdrawn=(2,)), device(2, 1)),
    Case(
        "the own document recalls, the group's baseline helps",
        document(baseline=G1),
        own(withdrawn=(2,)),
        device(2),
    ),
    Case("a released own document recalls nothing", TO_3, own(withdrawn=(2,), released=True), device(2, 1)),
    Case("what is withdrawn but does not run is no recall", document(withdrawn=(3,)), None, device(2, 1)),
    # a device document may name what its group withdrew
    Case("the own goal is withdrawn by the group", document(withdrawn=(3,)), own(baseline=G3), device(2)),
    Case("the own target is withdrawn by the group", document(withdrawn=(3,)), own(target(G3)), device(2)),
    Case("withdrawn outranks ahead", document(withdrawn=(1,)), own(baseline=G1), device(2)),
    Case("withdrawn by the group, and it runs", document(withdrawn=(3,)), own(baseline=G3), device(3, 2)),
)
