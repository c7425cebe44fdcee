"""Every strategy with every real part: what was promised is looked for on the devices, not in the manager."""

from collections.abc import Iterator

import pytest
from tests.end_to_end.street import FUSSY, Street


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """Manager and releases; each test brings groups of its own."""
    street = Street(tmp_path_factory.mktemp("street"))
    try:
        street.prepare("1.0.0", "1.1.0", "1.3.0", FUSSY, "2.0.0", "3.0.0")
        yield street
    finally:
        street.close()


def test_waves_canaries_batches_and_staging(street: Street) -> None:
    street.settle_in(waves=2, batches=2, staged=2)
    by_name = street.start("waves", "1.1.0", "--canary", "waves-2", "--waves", "1,100%", "--settle", "3s")
    batches = ("--stage", "first", "--batch-size", "1", "--batch-delay", "3s")
    in_batches = street.start("batches", "1.1.0", *batches)
    only = street.start("staged", "1.1.0", "--stage", "only", "--waves", "1,2", "--settle", "0")

    stands = street.ends_as(only, "paused", staged=2)
    assert "staged" in stands["reason"]
    for device in ("staged-1", "staged-2"):
        assert street.has(device, "1.1.0")
        assert street.runs(device) == "1.0.0"
    street.fleetfoot("rollout", "activate", only)
    street.run(staged_1="1.1.0", staged_2="1.1.0")
    street.ends_as(only, "completed", healthy=2)
    first, second = sorted(("staged-1", "staged-2"), key=street.moved_at)
    street.in_order(first, second)

    street.ends_as(by_name, "completed", healthy=2)
    street.run(waves_1="1.1.0", waves_2="1.1.0")
    street.in_order("waves-2", "waves-1", apart=3.0)

    street.ends_as(in_batches, "completed", healthy=2)
    street.run(batches_1="1.1.0", batches_2="1.1.0")
    first, second = sorted(("batches-1", "batches-2"), key=street.moved_at)
    street.in_order(first, second, apart=3.0)
    assert street.unpacked_at(second, "1.1.0") < street.moved_at(first)


def test_limits_trip_and_what_was_decided_happens(street: Street) -> None:
    street.settle_in(percent=3, minimum=2, steps=3, stop=2)
    for device in ("percent-1", "minimum-1", "steps-3", "stop-1"):
        street.ill(device)
    pair = ("--canary", "percent-1", "--canary", "percent-2", "--waves", "2,3", "--settle", "0")
    percent = street.start("percent", FUSSY, *pair, "--failure-percent", "40")
    few = street.start("minimum", FUSSY, "--immediate", "--breaker", "0", "--min-successes", "2")
    pair = ("--canary", "steps-1", "--canary", "steps-2", "--waves", "2,3", "--settle", "0")
    steps = street.start("steps", FUSSY, *pair)
    stop = street.start("stop", FUSSY, "--canary", "stop-1", "--waves", "1,2")

    tripped = street.ends_as(percent, "tripped", healthy=1, rolled_back=1, pending=1)
    assert tripped["reason"] == "1 of 2 failed in wave 1, limit 40 %"
    assert (street.runs("percent-1"), street.runs("percent-2")) == ("1.0.0", FUSSY)
    street.untouched(["percent-3"], FUSSY)
    street.fleetfoot("rollout", "decide", percent, "continue")
    street.run(percent_3=FUSSY)
    street.ends_as(percent, "completed", healthy=2, rolled_back=1)
    assert street.runs("percent-1") == "1.0.0"

    assert "fewer than 2 successes" in street.ends_as(few, "tripped", healthy=1, rolled_back=1)["reason"]
    assert (street.runs("minimum-1"), street.runs("minimum-2")) == ("1.0.0", FUSSY)
    street.ill("minimum-1", now=False)
    street.fleetfoot("rollout", "retry", few)
    street.run(minimum_1=FUSSY)
    street.ends_as(few, "completed", healthy=2)

    street.ends_as(stop, "tripped", rolled_back=1, pending=1)
    street.fleetfoot("rollout", "decide", stop, "abort")
    street.ends_as(stop, "aborted", rolled_back=1, canceled=1)

    street.ends_as(steps, "tripped", healthy=2, rolled_back=1)
    back = street.fleetfoot("rollout", "decide", steps, "rollback", "--batch-size", "1", "--settle", "3s")
    assert back["instead_of"] == steps
    street.run(steps_1="1.0.0", steps_2="1.0.0")
    first, second = sorted(("steps-1", "steps-2"), key=street.moved_at)
    street.in_order(first, second, apart=3.0)
    street.ends_as(back["rollout"], "completed", healthy=2)
    assert street.shown(steps)["state"] == "superseded"
    street.withdraws("steps", FUSSY)
    summed = street.fleetfoot("group", "show", "steps")["components"]["kiosk"]
    assert (summed["versions"], summed["states"]) == ({"1.0.0": 3}, {"idle": 2, "rolled back": 1})
    assert street.runs("steps-3") == "1.0.0"
    street.untouched(["stop-2"], FUSSY)


def test_who_is_offline_is_waited_for_or_not_and_what_expired_is_begun_by_nobody(street: Street) -> None:
    street.settle_in(skip=2, wait=1, late=1)
    away = ("skip-2", "wait-1", "late-1")
    for device in away:
        street.leaves(device)
    skip = street.start("skip", "1.1.0", "--immediate", "--offline", "skip")
    wait = street.start("wait", "1.1.0", "--immediate")
    late = street.start("late", "1.1.0", "--immediate", "--ttl", "1s")
    street.ends_as(skip, "completed", healthy=1, silent=1)
    street.ends_as(late, "expired", canceled=1)
    street.ends_as(wait, "running", pending=1)
    assert street.runs("skip-1") == "1.1.0"
    for device in away:
        assert street.runs(device) == "1.0.0"
        street.hosted[device].connect()
    street.run(skip_2="1.1.0", wait_1="1.1.0")
    street.ends_as(wait, "completed", healthy=1)
    street.obeys("late-1")
    street.untouched(["late-1"], "1.1.0")


def test_each_wave_is_approved_as_it_was_edited_and_both_versions_are_kept(street: Street) -> None:
    street.settle_in(asked=3)
    street.fleetfoot("group", "policy", "asked", "--approval", "always")
    wanted = ("--waves", "1,3", "--settle", "0", "--approve-each-wave", "--failure-percent", "50")
    rollout = street.start("asked", "1.1.0", *wanted)
    street.ends_as(rollout, "awaiting_approval", pending=3)
    street.untouched(street.of("asked"), "1.1.0")
    street.fleetfoot("rollout", "approve", rollout, "--waves", "1,2,3", "--failure-percent", "10")
    for moved in (1, 2):
        street.ends_as(rollout, "paused", healthy=moved, pending=3 - moved)
        assert sorted(map(street.runs, street.of("asked"))) == ["1.0.0"] * (3 - moved) + ["1.1.0"] * moved
        street.fleetfoot("rollout", "approve", rollout)
    street.ends_as(rollout, "completed", healthy=3)
    assert {street.runs(device) for device in street.of("asked")} == {"1.1.0"}
    report = street.report(rollout)
    assert (report["asked"]["waves"], report["approved"]["waves"]) == ([1, 3], [1, 2, 3])
    assert (report["asked"]["failure_percent"], report["approved"]["failure_percent"]) == (50, 10)


def test_the_higher_priority_counts_and_what_is_superseded_gives_way(street: Street) -> None:
    street.settle_in(rivals=2, heirs=2)
    for device in street.of("rivals"):
        street.leaves(device)
    low = street.start("rivals", "1.1.0", "--immediate")
    high = street.start("rivals", "1.3.0", "--immediate", "--device", "rivals-1", "--priority", "5")
    old = street.start("heirs", "1.1.0", "--canary", "heirs-1", "--waves", "1,2", "--settle", "10m")
    for device in street.of("rivals"):
        street.hosted[device].connect()
    street.run(rivals_1="1.3.0", rivals_2="1.1.0", heirs_1="1.1.0")
    street.ends_as(high, "completed", healthy=1)
    street.ends_as(low, "completed", healthy=1, skipped=1)
    assert not street.has("rivals-1", "1.1.0")
    street.ends_as(old, "settling", healthy=1, pending=1)
    new = street.start("heirs", "1.3.0", "--immediate", "--supersede")
    assert street.shown(old)["state"] == "superseded"
    street.run(heirs_1="1.3.0", heirs_2="1.3.0")
    street.ends_as(new, "completed", healthy=2)
    assert not street.has("heirs-2", "1.1.0")


def test_a_chain_takes_each_device_over_every_hop(street: Street) -> None:
    street.settle_in(far=1)
    facts = ["--component", "kiosk", "--version", "3.0.0", "--group", "far", "--immediate"]
    assert street.fleetfoot("rollout", "plan", *facts)["plan"]["chain"] == ["2.0.0", "3.0.0"]
    hops = street.fleetfoot("rollout", "start", *facts)["chain"]
    street.run(far_1="3.0.0")
    for hop in hops:
        street.ends_as(hop, "completed", healthy=1)
    previous = street.said("far-1").previous
    assert previous is not None
    assert previous.version == "2.0.0"
    assert street.unpacked_at("far-1", "2.0.0") < street.unpacked_at("far-1", "3.0.0")
