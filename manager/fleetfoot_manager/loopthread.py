"""What the embedded servers share: an asyncio loop on a thread of its own, and the rule "loopback only".

A server of this room is called by synchronous code and must not stop it. `LoopServer` runs the two
coroutines that a server is, `_open` and `_close`, on a loop on its own daemon thread: a forgotten server
never keeps a process alive, but `stop` ends it in order, so that nothing is left for the interpreter to
complain about.
"""

import asyncio
import ipaddress
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fleetfoot_protocol.errors import FleetfootError

Where = TypeVar("Where")
T = TypeVar("T")


def require_loopback(host: str, what: str) -> str:
    """The loopback address to bind: `host` itself, or 127.0.0.1 for `localhost`.

    No other name is resolved: what it means tomorrow is decided elsewhere. `what` begins the message.
    Raises FleetfootError `unsafe_binding` for everything else.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise FleetfootError("unsafe_binding", f"{what} listens on loopback addresses only, not on {host!r}")


def cannot_listen(what: str, host: str, port: int, error: OSError) -> FleetfootError:
    """The error to raise when binding failed: `io_error`, saying where and why."""
    return FleetfootError(
        "io_error",
        f"{what} cannot listen on {host} port {port}: {error.strerror or error}",
        remedy="choose another port (0 takes a free one), or stop what holds this one",
    )


class _LoopThread(threading.Thread):
    """A daemon thread that runs an asyncio loop until `end`. `asyncio.run` then cancels what is left."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def run(self) -> None:
        asyncio.run(self._main())

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        loop, _ = self._begun.result()
        return asyncio.run_coroutine_threadsafe(work, loop)

    def end(self) -> None:
        loop, over = self._begun.result()
        loop.call_soon_threadsafe(over.set)

    async def _main(self) -> None:
        over = asyncio.Event()
        self._begun.set_result((asyncio.get_running_loop(), over))
        await over.wait()


class LoopServer(ABC, Generic[Where]):
    """A server on a thread of its own. Start it, stop it, start it again, all from one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: _LoopThread | None = None

    @abstractmethod
    async def _open(self) -> Where:
        """Bind and serve; returns where. Leaves nothing open when it raises."""

    @abstractmethod
    async def _close(self) -> None:
        """End every connection and close the port."""

    def start(self, timeout: float = 10.0) -> Where:
        """Serve; returns where, when connections are accepted. `timeout` in seconds.

        Raises FleetfootError: `io_error` when the port cannot be had, `timeout`; RuntimeError when the
        server runs already.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self._name} runs already")
        self._thread = thread = _LoopThread(self._name)
        thread.start()
        try:
            return self._call(thread, self._open(), timeout)
        except BaseException:
            self._end(thread, timeout)
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """End every connection, close the port, end the thread. Nothing happens if it does not run.

        Raises FleetfootError `timeout` when something does not end within `timeout` seconds.
        """
        thread = self._thread
        if thread is None:
            return
        try:
            self._call(thread, self._close(), timeout)
        finally:
            self._end(thread, timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, thread: _LoopThread, work: Coroutine[Any, Any, T], timeout: float) -> T:
        future = thread.submit(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # the work's own, not ours
                raise
            future.cancel()
            raise self._timeout(timeout) from None

    def _end(self, thread: _LoopThread, timeout: float) -> None:
        thread.end()
        thread.join(timeout)
        if thread.is_alive():
            raise self._timeout(timeout)
        self._thread = None

    def _timeout(self, seconds: float) -> FleetfootError:
        return FleetfootError(
            "timeout",
            f"{self._name} did not answer within {seconds:g} s",
            remedy="see what keeps this machine busy, then try again",
        )
