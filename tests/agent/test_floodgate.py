"""Of a flood on one topic the first and the newest are stored, and no other topic notices."""

from fleetfoot_agent.courier.floodgate import Floodgate


def test_the_first_pass_at_once_and_the_newest_when_the_span_is_over() -> None:
    gate = Floodgate(1.0, 3)
    passed = [n for n in range(1000) if gate.passes("a", b"%d" % n, n / 1000)]
    assert passed == [0, 1, 2]
    assert gate.due_at == 1.0
    assert list(gate.over(0.999)) == []
    assert list(gate.over(1.0)) == [("a", b"999")]
    assert gate.due_at == float("inf")
    assert gate.passes("a", b"999", 1.1)


def test_what_is_repeated_does_not_keep_out_what_is_new() -> None:
    gate = Floodgate(1.0, 3)
    for message in (b"5", b"7", b"6"):
        assert [gate.passes("a", message, 0.5) for _ in range(100)] == [True] + [False] * 99
    assert list(gate.over(9.0)) == []


def test_topics_do_not_share_their_burst_and_a_later_message_outdoes_what_was_held() -> None:
    gate = Floodgate(1.0, 1)
    assert gate.passes("a", b"1", 0.0)
    assert not gate.passes("a", b"2", 0.1)
    assert gate.passes("b", b"2", 0.1)
    assert gate.passes("a", b"3", 1.5)
    assert list(gate.over(9.0)) == []


def test_what_could_not_be_stored_passes_when_it_comes_again() -> None:
    gate = Floodgate(1.0, 1)
    assert gate.passes("a", b"1", 0.0)
    gate.forget("a")
    assert gate.passes("a", b"1", 0.1)
