"""Who may act: one worker at a time, on one state and on one install root (contract section 6, rule 14)."""

import fcntl
import os

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig


class Lock:
    """The worker's lock: whoever does not get it must not write anything.

    Besides its own file it holds the folders of the components, so that two agents that were given one
    install root, each with a state of its own, are never at work in it together. A folder is locked as it
    is: nothing is written for it.
    """

    def __init__(self, config: AgentConfig) -> None:
        durable.make_folder(config.worker_dir, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(config.worker_dir / "worker.lock", flags, 0o600)
        self._folders = sorted(config.install_root / name for name in config.components)
        self._held: list[int] = []

    def take(self) -> bool:
        """Take it without waiting. False if somebody else has it, or a part of it."""
        if not _locked(self._fd):
            return False
        for folder in self._folders:
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue  # nobody is at work in what is not there
            self._held.append(fd)
            if not _locked(fd):
                self._let_go()
                fcntl.flock(self._fd, fcntl.LOCK_UN)
                return False
        return True

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def close(self) -> None:
        """Give it back."""
        self._let_go()
        os.close(self._fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
