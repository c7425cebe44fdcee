"""Power cuts on real systemd. FLEETFOOT_CUTS: how many; FLEETFOOT_SEED: which (`make powercuts`)."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from tests.attack.rows import row
from tests.lab.agentcuts import AgentCutter, stock_agents
from tests.lab.conftest import Lab
from tests.lab.host import Host, Opened, own_mounts
from tests.lab.keptcuts import BAD_VERSION, CHANGES, KeptCutter
from tests.lab.powercuts import EACH, HUNTED, Cutter, Tally, cut_after_commit, judge, stock

CUTS = int(os.environ.get("FLEETFOOT_CUTS", "200"))
#: Of these, around what is preserved.
KEPT_CUTS = max(12, CUTS // 16)
SEED = os.environ.get("FLEETFOOT_SEED", "1")
#: (seconds of probation, how many of ten orders are bad) of each host.
STATES = (*HUNTED, "idle")
HOSTS = ((0.5, 0.3), (0.5, 0.3), (0.5, 0.0), (4.0, 1.0))

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300 + 6 * CUTS)]


def cut_all(cutters: Sequence[Cutter]) -> None:
    threads = [threading.Thread(target=cutter.run, name=cutter.host.name) for cutter in cutters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@row(
    51,
    "the power of four hosts with real systemd is cut 200 times, ten or more in each state",
    "before anything can repair it: the old or the new version, whole; then it converges",
)
def test_row_51_a_power_cut_leaves_a_whole_version_and_a_way_on(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    stock(lab.shop)
    golden, tally = lab.golden, Tally(CUTS)
    cutters = [
        Cutter(lab.host(), golden, lab.shop, tally, f"{SEED}-{number}", window=window, bad=bad)
        for number, (window, bad) in enumerate(HOSTS)
    ]
    stock_agents(lab.shop)
    cutters.append(AgentCutter(lab.host(), golden, lab.shop, tally, f"{SEED}-agent", window=1.5, bad=0.3))
    cut_all(cutters)
    print(tally)
    record_property("powercuts", str(tally))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.cuts == CUTS
    assert tally.kept > 0
    assert tally.changed > 0
    if CUTS >= 200:
        rare = {state: tally.states[state] for state in STATES if tally.states[state] < EACH}
        assert not rare, f"too few cuts in {rare}"
        assert sum(tally.own_states.values()) >= EACH, tally.own_states
    if CUTS >= 1000:  # fewer may miss a moment by chance
        assert {"none", "1 of 2", "2 of 2"} <= set(tally.trials)


def test_a_power_cut_leaves_what_is_preserved_whole_and_a_way_back_to_it(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    golden, tally, kept = lab.golden, Tally(KEPT_CUTS), Counter[str]()
    lab.shop.release(BAD_VERSION, CHANGES)
    cutters = [
        KeptCutter(lab.host(), golden, lab.shop, tally, f"{SEED}-kept-{n}", window=0.5, bad=1.0, kept=kept)
        for n in range(3)
    ]
    cut_all(cutters)
    said = ", ".join(f"{what} {count}" for what, count in sorted(kept.items()))
    print(f"{tally.cuts} cuts around what is preserved: {said}")
    record_property("powercuts", said)
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.cuts == KEPT_CUTS
    assert kept["put back owed"] > 0
    assert kept["nothing owed"] > 0
    if CUTS >= 1000:  # fewer may miss a moment by chance
        assert kept["copy begun"] > 0
        assert kept["put back begun"] > 0


def problem_after_the_commit(lab: Lab, host: Host) -> str:
    """What is wrong with a disk whose power was cut after an upgrade was confirmed; empty if nothing is."""
    stock(lab.shop)
    bundle = cut_after_commit(host, lab.golden, lab.shop)
    problems: list[str] = []

    def look() -> None:
        own_mounts()
        with Opened(host, host.image.parent / "judged") as upper:
            try:
                verdict = judge(upper, lab.shop)
            except (AssertionError, ValueError) as error:
                problems.append(str(error))
                return
        run = verdict.record.run
        committed = run is not None and run.digest == bundle.digest and verdict.trial == "none"
        problems.append("" if committed else f"the committed version is gone: {verdict}")

    # On a thread: its mounts must not be seen where other hosts are started from.
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return problems[0]


def after_the_commit(lab: Lab, *, unsynced: bool) -> str:
    host = lab.host(unsynced=unsynced)
    try:
        return problem_after_the_commit(lab, host)
    finally:
        host.remove()


def test_what_was_confirmed_is_on_the_disk(lab: Lab) -> None:
    assert after_the_commit(lab, unsynced=False) == ""


def test_without_syncs_what_was_confirmed_is_lost(lab: Lab) -> None:
    # Not every time: the kernel writes by itself, too, every few seconds.
    assert any(after_the_commit(lab, unsynced=True) for _ in range(4))
