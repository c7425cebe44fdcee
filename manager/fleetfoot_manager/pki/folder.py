"""The folder of a fleet's certificates. Its files have the names that broker_conf/mosquitto wants.

    DIR/                       0700
      server-ca.crt .key       vouches for broker and artifact server
      server.crt .key          of both
      <role>-ca.crt .key       vouches for devices, manager, operators, integrators
      <role>.crl               what is revoked of them
      <role>/<name>.crt .key   what was issued here; a device's key is on the device
      issued/<role>/<name>.<serial>   an empty file for each certificate, so that it can be revoked

The manager needs the server's files, devices-ca.crt and devices.crl to serve artifacts, and devices-ca.key to
enrol and revoke devices. The other keys of authorities belong to where administrators work.
"""

import datetime
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from fleetfoot_manager.pki import authority
from fleetfoot_manager.pki.authority import Authority, PrivateKey, PublicKey
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

#: Role -> what its files begin with.
ROLES: dict[str, str] = {
    "device": "devices",
    "manager": "manager",
    "operator": "operators",
    "integrator": "integrators",
}
SERVER = "server"
#: Days that a certificate lives unless somebody says otherwise.
DAYS = 365.0


class Pki:
    """An existing folder. Several processes may use it at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "devices-ca.crt").is_file():
            raise FleetfootError(
                "not_found",
                f"there are no certificates in {folder}",
                remedy=f"make them with 'fleetfoot pki init --dir {folder} --server NAME'",
            )

    @classmethod
    def create(cls, folder: Path, fleet: str, hosts: Sequence[str]) -> "Pki":
        """Make all authorities, the server's certificate and the manager's. `exists_already`, `usage`."""
        if not hosts or not all(hosts):
            raise FleetfootError(
                "usage", "no name of a server", remedy="give --server NAME, as devices say it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FleetfootError("exists_already", f"{folder} is not empty")
        os.chmod(folder, 0o700)
        now = _now()
        for stem in (SERVER, *ROLES.values()):
            made = authority.found(f"{fleet} {stem}", now)
            _write(folder / f"{stem}-ca.key", authority.key_pem(made.key), 0o600)
            _write(folder / f"{stem}-ca.crt", authority.pem(made.certificate))
            if stem != SERVER:
                _write(folder / f"{stem}.crl", authority.pem(authority.revoked_list(made, (), now)))
        pki = cls(folder)
        pki._serve(authority.make_key(), hosts, DAYS)
        pki.issue("manager", "manager")
        return pki

    # -- what it can say

    def signer(self, stem: str) -> Authority:
        """An authority with its key. FleetfootError `not_found` where the key is not kept."""
        try:
            return authority.load(self._read(f"{stem}-ca.crt"), self._read(f"{stem}-ca.key"))
        except ValueError as error:
            raise FleetfootError("key_unreadable", f"{self.folder}/{stem}-ca.key: {error}") from error

    @property
    def can_enroll(self) -> bool:
        """Whether devices' certificates can be signed here."""
        return (self.folder / "devices-ca.key").is_file()

    def server_hosts(self) -> list[str]:
        """The names under which devices reach the server."""
        return authority.hosts_of(self._certificate("server.crt"))

    def server_ca(self) -> bytes:
        """The certificate that vouches for the server, PEM."""
        return self._read("server-ca.crt")

    def revoked(self, role: str) -> set[int]:
        """Serial numbers of what is revoked."""
        return {one.serial_number for one in self._list(role)}

    def issued(self, role: str) -> dict[str, list[int]]:
        """name -> serial numbers of its certificates."""
        found: dict[str, list[int]] = {}
        folder = self.folder / "issued" / role
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name, _, serial = path.name.rpartition(".")
            found.setdefault(name, []).append(int(serial, 16))
        return found

    def expires(self, role: str, name: str = "") -> float | None:
        """When the certificate of a name ends, Unix seconds; None if it is not here, as a device's is not."""
        file = "server.crt" if role == SERVER else f"{ROLES[role]}/{name}.crt"
        if not (self.folder / file).is_file():
            return None
        return self._certificate(file).not_valid_after_utc.timestamp()

    # -- what it can do

    def sign(self, role: str, name: str, public: PublicKey, days: float = DAYS) -> x509.Certificate:
        """A certificate for a key that is elsewhere. FleetfootError `usage` for what is no id."""
        _demand_id(name)
        by = self.signer(ROLES[role])
        certificate = authority.issue(by, name, public, _now(), days, role=role)
        note = self.folder / "issued" / role / f"{name}.{certificate.serial_number:x}"
        note.parent.mkdir(parents=True, exist_ok=True)
        _write(note, b"")
        return certificate

    def issue(self, role: str, name: str, days: float = DAYS) -> tuple[Path, Path]:
        """A certificate with a new key: paths of both. `exists_already` if this name has one here."""
        _demand_id(name)
        folder = self.folder / ROLES[role]
        if (folder / f"{name}.crt").exists():
            raise FleetfootError(
                "exists_already",
                f"{role} {name} has a certificate in {folder}",
                remedy="renew it, or revoke it first",
            )
        folder.mkdir(exist_ok=True)
        key = authority.make_key()
        certificate = self.sign(role, name, key.public_key(), days)
        _write(folder / f"{name}.key", authority.key_pem(key), 0o600)
        _write(folder / f"{name}.crt", authority.pem(certificate))
        return folder / f"{name}.crt", folder / f"{name}.key"

    def renew(self, role: str, name: str, days: float = DAYS) -> Path:
        """A new certificate for the key of the old one, in its place."""
        if role == SERVER:
            return self._renew_server(days)
        _demand_id(name)
        path = self.folder / ROLES[role] / f"{name}.crt"
        old = self._certificate(f"{ROLES[role]}/{name}.crt")
        if old.serial_number in self.revoked(role):
            raise FleetfootError("state_refused", f"{role} {name} is revoked", remedy="issue another one")
        public = old.public_key()
        if not isinstance(public, PublicKey):
            raise FleetfootError("key_unreadable", f"{path} has a key of another kind")
        _write(path, authority.pem(self.sign(role, name, public, days)))
        return path

    def revoke(self, role: str, name: str) -> int:
        """Put every certificate of a name on the list; how many are on it for that. They stay there."""
        _demand_id(name)
        by = self.signer(ROLES[role])
        with self._locked():
            known = {one.serial_number: one.revocation_date_utc for one in self._list(role)}
            now = _now()
            serials = self.issued(role).get(name, [])
            after = known | {serial: known.get(serial, now) for serial in serials}
            if after != known:
                _write(self._list_path(role), authority.pem(authority.revoked_list(by, after.items(), now)))
        for suffix in ("crt", "key"):
            (self.folder / ROLES[role] / f"{name}.{suffix}").unlink(missing_ok=True)
        return len(serials)

    def _renew_server(self, days: float) -> Path:
        try:
            key = authority.load(self._read("server.crt"), self._read("server.key")).key
        except ValueError as error:
            raise FleetfootError("key_unreadable", f"{self.folder}/server.key: {error}") from error
        return self._serve(key, self.server_hosts(), days)

    def _serve(self, key: PrivateKey, hosts: Sequence[str], days: float) -> Path:
        by = self.signer(SERVER)
        certificate = authority.issue(by, hosts[0][:64], key.public_key(), _now(), days, hosts)
        _write(self.folder / "server.key", authority.key_pem(key), 0o600)
        _write(self.folder / "server.crt", authority.pem(certificate))
        return self.folder / "server.crt"

    def _list_path(self, role: str) -> Path:
        return self.folder / f"{ROLES[role]}.crl"

    def _list(self, role: str) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl(self._read(self._list_path(role).name))

    def _certificate(self, name: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read(name))
        except ValueError as error:
            raise FleetfootError("key_unreadable", f"{self.folder}/{name}: {error}") from error

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise FleetfootError("not_found", f"there is no {self.folder}/{name}") from None
        except OSError as error:
            raise FleetfootError("io_error", f"{self.folder}/{name}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _demand_id(name: str) -> None:
    # `+`, `#` or `/` in a name would be more than one name in an access list.
    if not topics.is_id(name):
        raise FleetfootError("usage", f"{name[:80]!a} is no id", remedy=f"ids match {topics.ID_PATTERN}")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Whole and on the disk, or as it was."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb"
        ) as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
