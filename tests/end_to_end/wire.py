"""A wire that a test can cut: a TCP proxy on loopback in front of one server."""

import contextlib
import socket
import threading

_PIECE = 65536


class Wire:
    """Whoever connects to `port` reaches `target`, a port of loopback, while the wire is whole.

    `cut` ends every connection, and each new one at once. `stall` takes connections that bring nothing.
    `mend` makes it whole again.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._changed = threading.Condition()
        self._state = "whole"
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="wire")]
        self._threads[0].start()

    def cut(self) -> None:
        """Nothing gets through, and whoever tries is told so."""
        self._become("cut")

    def stall(self) -> None:
        """Nothing gets through, and whoever tries waits."""
        self._become("stalled")

    def mend(self) -> None:
        """Everything gets through; those who wait go on."""
        self._become("whole")

    def close(self) -> None:
        """End everything."""
        self._become("cut")
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _become(self, state: str) -> None:
        with self._changed:
            self._state = state
            if state == "cut":
                for one in self._sockets:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(here,), name="wire")
            self._threads.append(thread)
            thread.start()

    def _serve(self, here: socket.socket) -> None:
        with here, socket.socket() as there:
            with self._changed:
                self._changed.wait_for(lambda: self._state != "stalled")
            try:
                there.connect(("127.0.0.1", self._target))
                with self._changed:
                    if self._state == "cut":
                        return
                    self._sockets |= {here, there}
                back = threading.Thread(target=self._carry, args=(there, here), name="wire")
                back.start()
                self._carry(here, there)
                back.join()
            except OSError:
                pass  # nobody listens there: the connection simply ends
            finally:
                with self._changed:
                    self._sockets -= {here, there}

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                with self._changed:
                    self._changed.wait_for(lambda: self._state != "stalled")
                sink.sendall(piece)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
