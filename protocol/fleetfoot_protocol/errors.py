"""The one tree of errors: each carries a code, a cause in words and what a person can do next.

`Code` and its table live in `codes`; errors outside the upgrade vocabulary (a bad option, a broker that
does not answer) use the short codes of `GENERAL_REMEDIES` below. Standard library only.
"""

from fleetfoot_protocol.codes import Code, info

#: Codes of errors that happen to people at a keyboard, not to a device in an upgrade.
GENERAL_REMEDIES: dict[str, str] = {
    "usage": "see --help of the command",
    "config_invalid": "correct the named setting and try again",
    "key_unsafe": "chmod 600 the key file, and make a new key if others could have read it",
    "key_unreadable": "name a key file made by 'fleetfoot key new'",
    "exists_already": "choose another name or remove the existing one yourself",
    "not_found": "list what there is and check the spelling",
    "conflict": "look at the present state and decide again",
    "not_allowed": "ask somebody whose role in the trust root permits it",
    "broker_unreachable": "check that the broker runs and that host, port and TLS settings are right",
    "timeout": "check with 'fleetfoot manager status' that the manager runs, then try again",
    "request_expired": "check this machine's clock, then send the request again",
    "request_invalid": "correct the named argument and send the request again",
    "state_refused": "look at the present state with the matching 'show' command",
    "supervisor_failed": "check that the supervisor or systemd unit of the component runs",
    "unsafe_binding": "bind to a loopback address, or use an external broker with TLS",
    "store_unusable": "check the path, its owner and free disk space",
    "store_refused": "restore a backup, or run the program that the store belongs to",
    "io_error": "check the path, its permissions and free disk space",
}


class FleetfootError(Exception):
    """Root of the tree.

    code: a `Code` or a key of `GENERAL_REMEDIES`; message: the cause, in words; remedy: what to do, by
    default the remedy of the code.
    """

    def __init__(self, code: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message
        self.remedy = remedy if remedy is not None else _default_remedy(self.code)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class UpgradeError(FleetfootError):
    """A document, a release or an installation was refused or failed: the code is always a `Code`."""

    def __init__(self, code: Code, message: str, *, remedy: str | None = None) -> None:
        super().__init__(code, message, remedy=remedy)
        self.upgrade_code = code


class TrustError(UpgradeError):
    """Something is not signed as it must be, or is signed for something else."""


class FormError(UpgradeError):
    """Bytes do not have the form of the contract: malformed, too large, or of a newer specification."""


def _default_remedy(code: str) -> str:
    if code in GENERAL_REMEDIES:
        return GENERAL_REMEDIES[code]
    return info(Code(code)).remedy
