"""One HTTP(S) answer to "this file, from this byte on", and where a download may go.

http.client and ssl are imported at the first download: an idle courier does not pay for them. Redirects, at
most three, never lead from https to http, never to this device itself or its link unless the source that
the worker named is there already, and never to anything but http and https.
"""

import ipaddress
import re
import socket
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from fleetfoot_protocol.codes import Code

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
#: Refusals that may be gone a moment later; every other 4xx is final for its URL.
_PASSING = {408, 425, 429}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
#: A name as resolvers take it: parts of 1 to 63 letters, digits, `-` and `_`; a dot may end it.
_HOST = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)


class SourceError(Exception):
    """A source did not give what was asked. final: asking it again is of no use."""

    def __init__(self, code: Code, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.final = final


class Leash:
    """Lets another thread break off a transfer, also one that waits for a silent peer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pulled = False

    def attach(self, sock: socket.socket) -> None:
        """The socket of the transfer that begins. OSError if the leash was pulled already."""
        with self._lock:
            if self._pulled:
                raise ConnectionAbortedError("broken off")
            self._socket = sock

    def detach(self) -> None:
        """The transfer is over; its socket may be anybody's soon."""
        with self._lock:
            self._socket = None

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for the peer from now on."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(seconds)

    def pull(self, *, for_good: bool) -> None:
        """Break off the transfer under way and, if `for_good`, every later one."""
        with self._lock:
            self._pulled = self._pulled or for_good
            if self._socket is not None:
                try:
                    # The plain socket's: TLS has its own shutdown, which another thread must not touch.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    self._socket = None


class Source:
    """How sources are reached: timeouts in seconds; for https an additional CA file, and the certificate of
    this device with its key, for servers that ask for it.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        read_timeout: float,
        ca_file: Path | None,
        identity: tuple[Path, Path] | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._ca_file = ca_file
        self._identity = identity

    def open(self, url: str, offset: int, length: int, leash: Leash) -> "Body":
        """The bytes of the file at `url`, from `offset` on or, if the server cannot, from its beginning.

        length: of the whole file; an answer that says otherwise is refused. Raises `SourceError`.
        """
        import ssl
        from http.client import HTTPException

        try:
            return self._follow(url, offset, length, leash)
        except ssl.SSLError as error:
            raise SourceError(Code.UPGRADE_TLS_FAILED, str(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, f"{type(error).__name__}: {error}") from error

    def _follow(self, url: str, offset: int, length: int, leash: Leash) -> "Body":
        parts = check_url(url)
        place: Place | None = None
        for _ in range(MAX_REDIRECTS + 1):
            connection = self._connect(parts, leash)
            try:
                place = _checked(connection.sock.getpeername()[0], place)
                response = _ask(connection, parts, offset)
                if response.status not in _REDIRECTS:
                    return Body(connection, response, _start(response, offset, length), leash)
                parts = _redirected(parts, response, place)
            except BaseException:
                _close(connection, leash)
                raise
            _close(connection, leash)
        raise SourceError(Code.UPGRADE_URL_REFUSED, "too many redirects", final=True)

    def _connect(self, parts: SplitResult, leash: Leash) -> "HTTPConnection":
        import ssl
        from http.client import HTTPConnection, HTTPSConnection

        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
            if self._identity is not None:
                context.load_cert_chain(*self._identity)
            connection: HTTPConnection = HTTPSConnection(
                host, parts.port, timeout=self._connect_timeout, context=context
            )
        else:
            connection = HTTPConnection(host, parts.port, timeout=self._connect_timeout)
        try:
            connection.connect()
            connection.sock.settimeout(self._read_timeout)
            leash.attach(connection.sock)
        except BaseException:
            connection.close()
            raise
        return connection


class Body:
    """What a server sends. start: the byte of the file that its first byte is."""

    def __init__(
        self, connection: "HTTPConnection", response: "HTTPResponse", start: int, leash: Leash
    ) -> None:
        self.start = start
        self._connection = connection
        self._response = response
        self._leash = leash

    def read(self, most: int) -> bytes:
        """Up to `most` bytes as soon as there are any; none at the end. Raises `SourceError`."""
        from http.client import HTTPException

        try:
            return self._response.read1(most)
        except (OSError, HTTPException, ValueError) as error:
            raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, f"{type(error).__name__}: {error}") from error

    def goes_on(self) -> bool:
        """Whether the server sends more than the file has. One that is silent gets a second."""
        from http.client import HTTPException

        if self._response.length is not None:
            return False  # it said how much there is, and that was looked at
        self._leash.hurry(1.0)
        try:
            return bool(self._response.read1(1))
        except (OSError, HTTPException, ValueError):
            return False

    def close(self) -> None:
        """Hang up, however much is left."""
        self._response.close()
        _close(self._connection, self._leash)


def check_url(url: str) -> SplitResult:
    """The parts of a URL that a download may use; `SourceError` `upgrade_url_refused` for any other."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        usable, parts = False, urlsplit("")
    # A name and password would end up in logs; a control character would end up in the request.
    if not usable or "@" in parts.netloc or not (url.isascii() and url.isprintable()) or " " in url:
        raise SourceError(Code.UPGRADE_URL_REFUSED, f"not a usable source: {url[:200]!a}", final=True)
    return parts


def _is_host(host: str) -> bool:
    """Whether it is an address or a name with no empty part: `..` or `%00` would only fail when looked up."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return _HOST.fullmatch(host) is not None


def _close(connection: "HTTPConnection", leash: Leash) -> None:
    leash.detach()
    connection.close()


class Place(Enum):
    """Where an address is, as far as a redirect is concerned."""

    HERE = "this device"
    LINK = "the link of this device"
    ELSEWHERE = "elsewhere"


def place_of(address: str) -> Place:
    """Where the address is. Raises `ValueError` for what is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback or ip.is_unspecified:
        return Place.HERE
    return Place.LINK if ip.is_link_local else Place.ELSEWHERE


def _checked(address: str, before: Place | None) -> Place:
    """Where the address is; refused if a redirect leads to this device or its link from anywhere else.

    before: where the redirect came from, None for the source itself, which may be anywhere.
    """
    place = place_of(address)
    if before not in (None, place) and place is not Place.ELSEWHERE:
        raise SourceError(Code.UPGRADE_URL_REFUSED, f"a redirect leads to {place.value}", final=True)
    return place


def _ask(connection: "HTTPConnection", parts: SplitResult, offset: int) -> "HTTPResponse":
    target = parts.path or "/"
    headers = {"User-Agent": "fleetfoot-courier", "Accept-Encoding": "identity", "Connection": "close"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    connection.request("GET", f"{target}?{parts.query}" if parts.query else target, headers=headers)
    return connection.getresponse()


def _redirected(parts: SplitResult, response: "HTTPResponse", place: Place) -> SplitResult:
    there = check_url(urljoin(parts.geturl(), response.getheader("Location", "")))
    if parts.scheme == "https" and there.scheme != "https":
        raise SourceError(Code.UPGRADE_URL_REFUSED, "a redirect leads from https to http", final=True)
    with suppress(ValueError):  # a name, whose address is known once it is connected to
        _checked(there.hostname or "", place)
    return there


def _start(response: "HTTPResponse", offset: int, length: int) -> int:
    """The byte of the file that the body begins with; refuses what is not the file or of another length."""
    status = response.status
    if (coding := response.getheader("Content-Encoding", "identity").strip().lower()) not in ("", "identity"):
        # Nobody asked for it, and its bytes are not those that were signed.
        text = f"the server encodes the file as {coding[:40]!a}"
        raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, text, final=True)
    if status == 200:
        _expect(response.length, length)
        return 0
    if status == 206 and offset:
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, "another range than asked", final=True)
        _expect(None if match[3] == "*" else int(match[3]), length)
        return offset
    if status == 416:
        raise SourceError(Code.UPGRADE_LENGTH_MISMATCH, "the file ends before its length", final=True)
    final = 300 <= status < 500 and status not in _PASSING
    raise SourceError(Code.UPGRADE_DOWNLOAD_FAILED, f"the server answers {status}", final=final)


def _expect(said: int | None, length: int) -> None:
    if said is not None and said != length:
        raise SourceError(
            Code.UPGRADE_LENGTH_MISMATCH, f"the server says {said} bytes, not {length}", final=True
        )
