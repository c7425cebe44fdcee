"""The line before the engine, and the reading of the network in bursts."""

import os
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fleetfoot_manager.inbox import Inbox
from fleetfoot_manager.netloop import BufferedClient, NetworkLoop


def test_what_was_handed_in_comes_out_in_order_in_batches() -> None:
    inbox: Inbox[int] = Inbox(10)
    assert inbox.put([1, 2, 3], 1.0)
    assert inbox.take(2, 1.0) == [1, 2]
    assert inbox.take(2, 1.0) == [3]
    assert inbox.take(2, 0.0) == []


def test_a_full_line_makes_whoever_comes_wait() -> None:
    inbox: Inbox[int] = Inbox(2)
    assert inbox.put([1, 2, 3], 0.0)
    assert not inbox.put([4], 0.0)
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(inbox.put([4], 10.0)))
    waiting.start()
    assert inbox.take(2, 0.0) == [1, 2]
    waiting.join(10)
    assert done == [True]
    assert inbox.take(9, 0.0) == [3, 4]


def test_under_load_a_full_batch_is_waited_for() -> None:
    inbox: Inbox[int] = Inbox(10)
    inbox.put([1], 0.0)
    later = threading.Thread(target=lambda: inbox.put([2, 3], 1.0))
    later.start()
    assert inbox.take(9, 1.0, enough=3, patience=10.0) == [1, 2, 3]
    later.join(10)
    inbox.put([4], 0.0)
    assert inbox.take(9, 1.0, enough=2, patience=0.0) == [4]


def test_paho_still_reads_through_what_makes_it_quick() -> None:
    """Where it does not any more, everything works, only slower: then this is to be looked at anew."""
    assert BufferedClient._sock_recv is not mqtt.Client._sock_recv
    assert "_sock_recv" in mqtt.Client._packet_read.__code__.co_names


def test_who_publishes_on_a_connection_that_has_ended_writes_into_no_other_file(tmp_path: Path) -> None:
    client = BufferedClient(CallbackAPIVersion.VERSION2)
    loop = NetworkLoop(client, lambda: 0, lambda: None)
    loop.close()
    # The next files get the numbers of the pipe.
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("a", "b")]
    try:
        loop.wake()
    finally:
        for number in files:
            os.close(number)
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"", b""]
