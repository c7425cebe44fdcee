"""Steps on threads of their own: items in order, failures in their place, and no thread left behind."""

import threading
from collections.abc import Iterator

import pytest

from fleetfoot_agent.worker.gunzip import PieceStream
from fleetfoot_agent.worker.readahead import Ahead, ReadAhead
from fleetfoot_protocol.errors import UpgradeError


class Numbers(PieceStream):
    """Pieces 0000, 0001 and so on, without an end or until it fails."""

    def __init__(self, until: int = 1 << 30, failure: BaseException | None = None) -> None:
        super().__init__()
        self.made = 0
        self._until = until
        self._failure = failure

    def _refill(self) -> bool:
        if self.made == self._until:
            if self._failure:
                raise self._failure
            return False
        self._piece = memoryview(b"%04d" % self.made)
        self.made += 1
        return True

    def _has_more(self) -> bool:
        return False


def read(stream: PieceStream) -> Iterator[bytes]:
    return (bytes(piece) for piece in stream.rest())


def test_pieces_come_in_order_and_the_end_stays_the_end() -> None:
    with ReadAhead(Numbers(100)) as stream:
        assert stream.take(6) == b"000000"
        assert b"".join(read(stream)) == b"01" + b"".join(b"%04d" % n for n in range(2, 100))
        assert list(read(stream)) == []
        with pytest.raises(UpgradeError, match="ends too early"):
            stream.take(1)


@pytest.mark.parametrize("failure", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_what_goes_wrong_arrives_after_the_bytes_before_it(failure: BaseException) -> None:
    with ReadAhead(Numbers(20, failure)) as stream:
        assert stream.take(80)[-4:] == b"0019"
        for _ in range(2):
            with pytest.raises(type(failure)) as caught:
                stream.take(1)
            assert caught.value is failure


def test_no_more_is_unpacked_than_a_few_pieces_ahead_and_leaving_ends_the_thread() -> None:
    numbers = Numbers()
    before = threading.active_count()
    with ReadAhead(numbers) as stream:
        for _ in range(50):
            stream.take(4)
            assert numbers.made <= int(stream.take(4)) + 1 + 5  # four wait, one is held until there is room
    assert threading.active_count() == before


def test_one_step_may_read_from_another_and_both_end_when_the_reader_leaves() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(1 << 30):
            made.append(number)
            yield number

    before = threading.active_count()
    with Ahead(numbers(), 1, "first") as first, Ahead((2 * n for n in first), 1, "second") as second:
        assert [next(second) for _ in range(50)] == list(range(0, 100, 2))
        assert len(made) <= 50 + 4  # with each step one waits and one is held until there is room
    assert threading.active_count() == before


def test_a_failure_of_the_first_step_comes_out_of_the_second_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise OSError(5, "I/O error")

    with Ahead(numbers(), 1, "first") as first, Ahead(iter(first), 1, "second") as second:
        assert [next(second) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="I/O error"):
            next(second)
