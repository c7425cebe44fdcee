"""Where an external broker is, and what the manager shows it."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fleetfoot_protocol.errors import FleetfootError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is."""

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the manager shows a broker that wants to know who connects. Paths of PEM files; none is a secret.

    ca: who vouches for the broker (default: the system's). The password is the first line of its file.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def check(self, address: Address) -> None:
        """Raise FleetfootError `usage` or `config_invalid` for what could never connect to `address`."""
        if (self.cert is None) != (self.key is None):
            raise _usage("--broker-cert and --broker-key belong together")
        if self.password_file is not None and self.username is None:
            raise _usage("--broker-password-file is of no use without --broker-username")
        if not address.tls and (self.ca or self.cert):
            raise _usage("certificates are of no use without TLS: give --broker as mqtts://host:port")
        try:
            self.context()
            self.password()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise FleetfootError(
                "config_invalid",
                f"cannot use the files for the broker: {error}",
                remedy="check the files that --broker-ca, --broker-cert, --broker-key and"
                " --broker-password-file name",
            ) from error

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, the broker's certificate and name checked."""
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def password(self) -> str | None:
        """The first line of the password file, None without one."""
        if self.password_file is None:
            return None
        return self.password_file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")


def _usage(message: str) -> FleetfootError:
    return FleetfootError("usage", message)


def parse_broker(url: str) -> Address:
    """`mqtt://host:port` (default 1883) or `mqtts://host:port` (8883). Raises FleetfootError `usage`."""
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "mqtts"
        host, port = parts.hostname, parts.port or (8883 if tls else 1883)
    except ValueError:
        host, port, tls = None, 0, False
        parts = urlsplit("")
    wrong = parts.scheme not in ("mqtt", "mqtts") or parts.path not in ("", "/")
    if wrong or not host or parts.username is not None:
        raise FleetfootError(
            "usage",
            f"{url[:200]!a} is no broker",
            remedy="give it as mqtt://host:port or mqtts://host:port, without a path",
        )
    return Address(host, port, tls)
