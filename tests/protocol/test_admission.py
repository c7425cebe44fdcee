"""Admission (contract section 4): cuts are exact for every k, and widening never drops anybody."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol import samples

from fleetfoot_protocol import admission
from fleetfoot_protocol.admission import ALL, NOBODY, Candidate
from fleetfoot_protocol.documents import Target

IDS = st.integers(0, 300).map(lambda number: f"dev-{number:03}")
LABELS = st.dictionaries(st.sampled_from(["site", "ring"]), st.sampled_from(["a", "b"]))


class World(NamedTuple):
    """A fleet and what a rollout says about it."""

    salt: str
    devices: list[Candidate]
    selector: Mapping[str, str]
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def cut(self, k: int) -> str:
        return admission.cut_for(
            k, self.salt, self.devices, selector=self.selector, include=self.include, exclude=self.exclude
        )

    def admitted(self, cut: str) -> set[str]:
        """Whom devices themselves take for admitted at this cut."""
        target = Target(
            rollout="r-0001",
            goal=samples.GOAL,
            selector=dict(self.selector),
            include=self.include,
            exclude=self.exclude,
            salt=self.salt,
            stage_cut=cut,
            activate_cut=cut,
        )
        return {d.id for d in self.devices if admission.admitted(target, d.id, d.labels, cut)}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    fleet = draw(st.lists(st.builds(Candidate, IDS, LABELS), max_size=30, unique_by=lambda d: d.id))
    listed = st.lists(st.sampled_from([d.id for d in fleet]) | IDS if fleet else IDS, max_size=6, unique=True)
    return World(
        draw(st.sampled_from(["r-0001", "r-0002", "0", "canary-7"])),
        fleet,
        draw(st.just({}) | LABELS),
        tuple(draw(listed)),
        tuple(draw(listed)),
    )


@given(worlds())
def test_the_cut_for_k_admits_exactly_k(world: World) -> None:
    fit = {d.id for d in admission.eligible(world.devices, world.selector, world.exclude)}
    included = len(fit & set(world.include))
    for k in range(len(fit) + 2):
        admitted = world.admitted(world.cut(k))
        assert admitted <= fit
        assert len(admitted) == min(max(k, included), len(fit))


@given(worlds())
def test_a_wider_cut_never_drops_anybody(world: World) -> None:
    waves = [world.admitted(world.cut(k)) for k in range(len(world.devices) + 2)]
    assert all(earlier <= later for earlier, later in pairwise(waves))
    cuts = [world.cut(k) for k in range(len(world.devices) + 2)]
    hexes = [cut for cut in cuts if cut != ALL]
    assert hexes == sorted(hexes)
    assert cuts == hexes + [ALL] * (len(cuts) - len(hexes))


@given(worlds())
def test_devices_are_admitted_in_the_order_they_are_ranked(world: World) -> None:
    fit = admission.eligible(world.devices, world.selector, world.exclude)
    ranked = admission.ranked(world.salt, fit, world.include)
    assert sorted(ranked) == sorted(d.id for d in fit)
    included = len({d.id for d in fit} & set(world.include))
    for k in range(included, len(ranked) + 1):
        assert world.admitted(world.cut(k)) == set(ranked[:k])


@given(worlds(), st.integers(0, 31), st.sampled_from(["0" * 16, "8" * 16, "c" + "0" * 15, "f" * 16, ALL]))
def test_a_device_decides_by_itself_alone(world: World, joined: int, cut: str) -> None:
    # Whoever else joins or leaves the fleet: the same cut means the same for each device.
    everybody = world.admitted(cut)
    part = world._replace(devices=world.devices[:joined])
    assert part.admitted(cut) == everybody & {d.id for d in part.devices}


@given(worlds(), st.integers(0, 31))
def test_the_cut_stands_directly_behind_the_last_one_admitted(world: World, k: int) -> None:
    cut = world.cut(k)
    if cut in (ALL, NOBODY):
        return
    last = f"{int(cut, 16) - 1:016x}"
    (edge,) = [d.id for d in world.devices if admission.position(world.salt, d.id) == last]
    assert edge in world.admitted(cut)
    assert world.admitted(last) == world.admitted(cut) - {edge}


@pytest.mark.parametrize("k", [0, -1])
def test_for_nobody_the_cut_admits_nobody_not_even_who_joins_an_empty_group(k: int) -> None:
    assert admission.cut_for(k, "r-0001", []) == NOBODY
    excluded = [Candidate("dev-001", {})]
    assert admission.cut_for(k, "r-0001", excluded, exclude=["dev-001"]) == NOBODY
    joiner = World("r-0001", [Candidate(f"dev-{n:03}", {}) for n in range(1000)], {}, (), ())
    assert joiner.admitted(NOBODY) == set()


def test_everybody_is_everybody_who_ever_joins() -> None:
    assert admission.cut_for(1, "r-0001", [Candidate("dev-001", {})]) == ALL
    assert admission.cut_for(7, "r-0001", [Candidate("dev-001", {})]) == ALL
    assert admission.below(ALL, "r-0001", "dev-002")


def test_a_canary_of_a_tenth_of_fifty_is_exactly_five() -> None:
    world = World("r-0001", [Candidate(f"dev-{n:03}", {}) for n in range(50)], {}, (), ())
    (first, *_) = admission.wave_sizes(["10%", "50%", "100%"], 50)
    assert len(world.admitted(world.cut(first))) == 5


def test_salts_choose_different_canaries() -> None:
    fleet = [Candidate(f"dev-{n:03}", {}) for n in range(200)]
    chosen = {
        frozenset(world.admitted(world.cut(10)))
        for world in (World(f"r-{n:04}", fleet, {}, (), ()) for n in range(20))
    }
    assert len(chosen) == 20


def test_a_selector_matches_whole_values_of_every_label() -> None:
    labels = {"site": "quay", "ring": "a"}
    for selector in ({}, {"site": "quay"}, {"ring": "a", "site": "quay"}):
        assert admission.matches(selector, labels)
    for selector in ({"site": "qua"}, {"site": "quay", "ring": "b"}, {"floor": ""}, {"site": "Quay"}):
        assert not admission.matches(selector, labels)


SHARES = st.lists(
    st.integers(0, 60) | st.integers(1, 100).map(lambda percent: f"{percent}%"), min_size=1, max_size=6
)


@given(SHARES, st.integers(1, 500))
def test_waves_rise_from_one_to_at_most_everybody(shares: list[int | str], total: int) -> None:
    sizes = admission.wave_sizes(shares, total)
    assert sizes[0] >= 1
    assert sizes[-1] <= total
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= len(shares)


@given(st.integers(1, 100), st.integers(1, 10_000))
@settings(max_examples=200)
def test_a_percentage_is_rounded_up(percent: int, total: int) -> None:
    (size,) = admission.wave_sizes([f"{percent}%"], total)
    assert size >= 1
    assert (size - 1) * 100 < percent * total <= size * 100


@given(SHARES, st.integers(1, 500))
def test_the_last_wave_reaches_the_largest_share(shares: list[int | str], total: int) -> None:
    alone = [admission.wave_sizes([share], total)[0] for share in shares]
    sizes = admission.wave_sizes(shares, total)
    assert sizes[-1] == max(alone)
    assert set(sizes) <= set(alone)


@given(st.integers(1, 500))
def test_a_whole_is_everybody(total: int) -> None:
    assert admission.wave_sizes(["100%"], total) == (total,)
    assert admission.wave_sizes(["10%", "100%"], total)[-1] == total


@pytest.mark.parametrize(
    "share", ["0%", "101%", "-1%", "10", "", "%", "1.5%", " 10%", "1_0%", "1e1%", "\u0661%", "ten%", "10%\n"]
)
def test_a_share_is_a_count_or_a_percentage(share: str) -> None:
    with pytest.raises(ValueError, match="neither a count nor a percentage"):
        admission.wave_sizes([share], 30)


@pytest.mark.parametrize(("shares", "total"), [([], 30), (["100%"], 0), ([5], 0), ([5], -1)])
def test_a_rollout_has_waves_and_devices(shares: list[int | str], total: int) -> None:
    with pytest.raises(ValueError, match="at least one wave and one device"):
        admission.wave_sizes(shares, total)
