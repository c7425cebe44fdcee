"""The courier's numbers, in one place: a test or a demo can be quick without being another program."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Seconds, unless a field says otherwise. The defaults are those of a device."""

    #: Least time between two wakes, and between two starts of a worker (contract section 6, rule 12).
    wake_interval: float = 1.0
    #: Between two looks at out/ while nothing happens, and while a worker is at work or just was.
    poll_idle: float = 1.0
    poll_busy: float = 0.1
    #: For how long after a wake or a change the looks stay frequent.
    busy_for: float = 5.0

    #: Of what comes on one topic within a span, so many different messages are stored at once (a number), and
    #: the newest of the rest when it is over: each is written and synced.
    flood_span: float = 1.0
    flood_burst: int = 16

    #: Reconnecting: a random time below min(cap, base * 2^n), n counted anew after `stable_after`.
    reconnect_base: float = 1.0
    reconnect_cap: float = 60.0
    stable_after: float = 10.0
    #: For TCP and TLS, and for the broker's answer to CONNECT.
    connect_timeout: float = 5.0
    connack_timeout: float = 10.0
    #: For the acknowledgement of a message: then the connection is held for lost.
    ack_timeout: float = 30.0
    #: Likewise of a subscription, for which a cluster that a whole fleet comes back to takes its time.
    suback_timeout: float = 120.0
    #: Until what is wanted and did not come, or was not kept, is subscribed to again: that brings it again.
    ask_again: float = 30.0
    #: Until everything is subscribed to again (half of it to all of it): against whatever a broker lost.
    listen_again: float = 6 * 3600.0
    #: How long stopping waits until the broker has shown that it knows.
    farewell: float = 2.0

    #: Pause before a worker that failed is started again (as RestartSec= of its unit).
    worker_restart: float = 10.0
    #: How long stopping waits for a worker.
    worker_stop: float = 10.0

    #: Blobs fetched at the same time (a number).
    downloads: int = 2
    fetch_connect_timeout: float = 10.0
    fetch_read_timeout: float = 30.0
    #: An attempt that brings nothing for so long is broken off, and one that brings less than `fetch_least`
    #: bytes in it, which no link does that is worth waiting for.
    fetch_stall: float = 60.0
    fetch_least: int = 4096
    #: Rounds over all sources of a blob (a number), and the random pause between them as for reconnecting.
    fetch_rounds: int = 5
    fetch_base: float = 1.0
    fetch_cap: float = 30.0
    #: Least time between two reports of progress of one blob.
    progress_interval: float = 1.0

    #: Events on their way to the broker at the same time (a number).
    outbox_window: int = 20
    #: Least time between two writings of in/acked while events are on their way.
    acked_interval: float = 0.5
