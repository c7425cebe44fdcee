"""Children that end with whoever started them, also where that one is killed outright and can end nobody."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def to_me() -> Callable[[], None]:
    """For `preexec_fn`: the child gets SIGTERM when the thread that starts it ends, and this process with it.

    So it is to be started by a thread that lives as long as the child may.
    """
    parent = os.getpid()

    def tie() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it has ended already, and nobody will say so
                os._exit(1)

    return tie
