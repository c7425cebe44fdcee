"""Which columns fit into a width, and how wide each is. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

GAP = 1


class Column(NamedTuple):
    """A column: `least` and `most` characters; the higher `rank`, the earlier it gives way."""

    title: str
    least: int
    most: int
    rank: int = 0


def widths(columns: Sequence[Column], room: int) -> list[int]:
    """The width of each column, 0 for those that have to give way.

    Every column that stays has its least width; what is left goes to all in turn, up to their most.
    """
    staying = set(range(len(columns)))

    def needed() -> int:
        return sum(columns[i].least for i in staying) + GAP * (len(staying) - 1)

    for place in sorted(staying, key=lambda i: (-columns[i].rank, -i)):
        if needed() <= room or len(staying) == 1:
            break
        staying.remove(place)
    given = [columns[i].least if i in staying else 0 for i in range(len(columns))]
    left = room - needed()
    hungry = [i for i in sorted(staying) if columns[i].most > given[i]]
    while left > 0 and hungry:
        share = max(1, left // len(hungry))
        for place in list(hungry):
            more = min(share, columns[place].most - given[place], left)
            given[place] += more
            left -= more
            if given[place] >= columns[place].most:
                hungry.remove(place)
    if left < 0:
        given = [min(width, room) for width in given]
    return given
