"""Signals come when they come: nothing that is held is broken off."""

import signal

import pytest

from fleetfoot_sim.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_what_is_held_goes_on_to_its_end_and_is_interrupted_then() -> None:
    done: list[str] = []

    def hold(interrupts: Interrupts) -> None:
        with interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("beyond")

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            hold(interrupts)
        assert done == ["inner", "outer"]
        with interrupts.held():  # what was heard is told once
            done.append("cleaned up")
    assert done[-1] == "cleaned up"
