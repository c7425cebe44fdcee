"""What the broker says of this device, and when to correct it (contract section 1)."""


class Presence:
    """Our own presence as the broker tells it: a late Will is corrected, at most once a second."""

    def __init__(self) -> None:
        self.due_at = float("inf")
        self._said_at = float("-inf")
        self._leaving = False
        self._mid: int | None = None
        self._heard = False

    def heard(self, payload: bytes) -> None:
        """The broker told `payload` of us."""
        if payload != b"offline":
            return
        if self._leaving:
            self._heard = True
        else:
            self.due_at = min(self.due_at, self._said_at + 1.0)

    def due(self, now: float) -> bool:
        """Whether to say `online` again now."""
        if now < self.due_at:
            return False
        self.due_at, self._said_at = float("inf"), now
        return True

    def leave(self, mid: int | None) -> None:
        """`offline` was published as message `mid`."""
        self._leaving, self._mid = True, mid

    def acknowledged(self, mid: int) -> None:
        """The broker has message `mid`."""
        if mid == self._mid:
            self._mid = None

    @property
    def leaving(self) -> bool:
        """Whether the broker still has to show that it took our `offline`."""
        return self._leaving and (self._mid is not None or not self._heard)
