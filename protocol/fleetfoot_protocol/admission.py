"""Who is in a cohort: a device admits itself by hashing its id with the rollout's salt (contract section 4).

The manager, which knows the inventory, chooses the cut so that exactly k devices are admitted; a device
needs nothing but its own id and labels to come to the same answer.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fleetfoot_protocol.documents import Target

ALL = "all"
NOBODY = "0" * 16
_PERCENT = re.compile(r"([1-9][0-9]?|100)%")


class Candidate(NamedTuple):
    """A device as far as admission looks at it."""

    id: str
    labels: Mapping[str, str]


def position(salt: str, device: str) -> str:
    """Where `device` stands under `salt`: 16 hex digits, BLAKE2b with digest size 8 over salt, 0x00, id."""
    return hashlib.blake2b(salt.encode() + b"\0" + device.encode(), digest_size=8).hexdigest()


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector stands on the device with the same value."""
    return all(labels.get(key) == value for key, value in selector.items())


def below(cut: str, salt: str, device: str) -> bool:
    """Whether the device stands below the cut."""
    return cut == ALL or position(salt, device) < cut


def admitted(target: Target, device: str, labels: Mapping[str, str], cut: str) -> bool:
    """Whether `target` admits the device at `cut` (its stage_cut or its activate_cut)."""
    if not matches(target.selector, labels) or device in target.exclude:
        return False
    return device in target.include or below(cut, target.salt, device)


def eligible(
    devices: Iterable[Candidate], selector: Mapping[str, str], exclude: Iterable[str] = ()
) -> list[Candidate]:
    """Devices that a rollout can ever admit: matching and not excluded."""
    out = frozenset(exclude)
    return [d for d in devices if d.id not in out and matches(selector, d.labels)]


def ranked(salt: str, devices: Iterable[Candidate], include: Iterable[str] = ()) -> list[str]:
    """Ids of eligible devices in the order in which a widening cut admits them: included ones first."""
    first = frozenset(include)
    return [d.id for d in sorted(devices, key=lambda d: (d.id not in first, position(salt, d.id), d.id))]


def cut_for(
    k: int,
    salt: str,
    devices: Iterable[Candidate],
    *,
    selector: Mapping[str, str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> str:
    """The cut that admits exactly `k` of the eligible devices: see `cuts_for`."""
    return cuts_for((k,), salt, devices, selector=selector, include=include, exclude=exclude)[0]


def cuts_for(
    sizes: Iterable[int],
    salt: str,
    devices: Iterable[Candidate],
    *,
    selector: Mapping[str, str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> tuple[str, ...]:
    """For each size k the cut that admits exactly k of the eligible devices, included ones counting first.

    `all` once k reaches their number; with k at or below the number of included ones, a cut that admits
    nobody else; with k = 0 that one even where nobody is eligible yet. The cut stands directly behind the
    k-th device, so that devices that join later are as rarely admitted as can be.
    """
    listed = frozenset(include)
    fit = eligible(devices, selector or {}, exclude)
    rest = sorted(position(salt, d.id) for d in fit if d.id not in listed)

    def cut(k: int) -> str:
        if k >= max(len(fit), 1):
            return ALL
        wanted = k - (len(fit) - len(rest))
        return f"{int(rest[wanted - 1], 16) + 1:016x}" if wanted > 0 else NOBODY

    return tuple(cut(k) for k in sizes)


def wave_sizes(shares: Iterable[int | str], total: int) -> tuple[int, ...]:
    """Cumulative device counts of waves over `total` devices, strictly rising.

    A share is a count (int) or a percentage of the total (``"10%"``); percentages are rounded up, each
    wave has at least one device and none is beyond the total. Waves that would add nobody are dropped;
    the last wave given is kept as it is, so a rollout may stop short of everybody. Raises ValueError.
    """
    sizes: list[int] = []
    for share in shares:
        if isinstance(share, int):
            size = share
        elif _PERCENT.fullmatch(share):
            size = -(-total * int(share[:-1]) // 100)
        else:
            raise ValueError(f"{share[:80]!a} is neither a count nor a percentage from 1% to 100%")
        size = min(max(size, 1), total)
        if not sizes or size > sizes[-1]:
            sizes.append(size)
    if not sizes or total < 1:
        raise ValueError("a rollout needs at least one wave and one device")
    return tuple(sizes)
