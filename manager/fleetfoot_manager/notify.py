"""What systemd is told: that the manager is ready, that it still turns, that it stops (sd_notify)."""

import contextlib
import os
import socket


def tell(word: str) -> None:
    """Send one assignment, `READY=1` for example, to whoever asked by NOTIFY_SOCKET; nobody may have."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    where = f"\0{address[1:]}" if address.startswith("@") else address
    # Whoever does not listen finds out by the watchdog.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(word.encode(), where)
