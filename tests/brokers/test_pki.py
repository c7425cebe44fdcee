"""`fleetfoot pki`: certificates, read by the library as a broker reads them."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from fleetfoot_client.cli import main
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import times

ROLES = {"device": "devices", "manager": "manager", "operator": "operators", "integrator": "integrators"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pki"
    words = ["pki", "init", "--dir", str(made), "--fleet", "bakery"]
    assert main([*words, "--server", "broker.example.org", "--server", "192.0.2.7"]) == Exit.OK
    return made


def pki(folder: Path, verb: str, *words: str) -> int:
    return main(["pki", verb, "--dir", str(folder), *words])


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def said_names(found: x509.Certificate) -> tuple[str, str]:
    """(common name, organizational unit)"""
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    cn, ou = (str(found.subject.get_attributes_for_oid(oid)[0].value) for oid in oids)
    return cn, ou


def listed(folder: Path, role: str) -> set[int]:
    """The serial numbers on the list of a role, which its authority has signed."""
    crl = x509.load_pem_x509_crl((folder / f"{ROLES[role]}.crl").read_bytes())
    by = certificate(folder / f"{ROLES[role]}-ca.crt").public_key()
    assert crl.is_signature_valid(by)  # type: ignore[arg-type]  # of a kind that may sign lists
    return {one.serial_number for one in crl}


def test_init_makes_an_authority_for_each_role_and_shows_no_key_to_others(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    for key in folder.rglob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600, key
    server = certificate(folder / "server.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    server.verify_directly_issued_by(certificate(folder / "server-ca.crt"))
    for role in ROLES:
        assert listed(folder, role) == set()
    assert pki(folder, "init", "--fleet", "bakery", "--server", "x") == Exit.FAILED


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_says_name_and_role_and_only_its_authority_vouches(folder: Path, role: str) -> None:
    assert pki(folder, "issue", "--role", role, "someone", "--days", "30") == Exit.OK
    path = folder / ROLES[role] / "someone.crt"
    found = certificate(path)
    assert said_names(found) == ("someone", role)
    # And a day before now, for clocks that are behind.
    assert found.not_valid_after_utc - found.not_valid_before_utc == timedelta(days=31)
    key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    assert key.public_key() == found.public_key()
    for other, stem in ROLES.items():
        by = certificate(folder / f"{stem}-ca.crt")
        if other == role:
            found.verify_directly_issued_by(by)
        else:
            with pytest.raises(ValueError, match="Issuer"):
                found.verify_directly_issued_by(by)
    assert pki(folder, "issue", "--role", role, "someone") == Exit.FAILED
    assert certificate(path) == found


def test_renewing_keeps_the_key_and_the_names(folder: Path) -> None:
    pki(folder, "issue", "--role", "operator", "alice", "--days", "1")
    for path, words in (
        (folder / "operators/alice.crt", ("operator", "alice")),
        (folder / "server.crt", ("server",)),
    ):
        before, secret = certificate(path), path.with_suffix(".key").read_bytes()
        assert pki(folder, "renew", "--role", *words) == Exit.OK
        after = certificate(path)
        assert after.serial_number != before.serial_number
        assert (after.subject, after.public_key()) == (before.subject, before.public_key())
        assert path.with_suffix(".key").read_bytes() == secret
        kinds = [c for c in (before, after) if path.name == "server.crt"]
        alternatives = [c.extensions.get_extension_for_class(x509.SubjectAlternativeName) for c in kinds]
        assert len({str(one.value) for one in alternatives}) == bool(kinds)


def test_every_certificate_of_a_revoked_name_is_listed_and_stays_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "operators/alice.crt"
    pki(folder, "issue", "--role", "operator", "alice")
    first = certificate(path).serial_number
    pki(folder, "renew", "--role", "operator", "alice")
    second = certificate(path).serial_number
    assert pki(folder, "revoke", "--role", "operator", "alice") == Exit.OK
    assert listed(folder, "operator") == {first, second}
    assert listed(folder, "device") == set()
    assert not path.exists()
    assert pki(folder, "renew", "--role", "operator", "alice") == Exit.FAILED
    assert pki(folder, "issue", "--role", "operator", "alice") == Exit.OK
    assert certificate(path).serial_number not in listed(folder, "operator")
    capsys.readouterr()
    assert pki(folder, "list", "--json") == Exit.OK
    said = json.loads(capsys.readouterr().out)
    (row,) = [row for row in said["issued"] if row["role"] == "operator"]
    ends = times.to_text(certificate(path).not_valid_after_utc.timestamp())
    assert row == {"role": "operator", "name": "alice", "certificates": 3, "revoked": 2, "expires": ends}
    pki(folder, "revoke", "--role", "operator", "alice")
    capsys.readouterr()
    assert pki(folder, "list") == Exit.OK
    listing = capsys.readouterr().out
    assert f"server broker.example.org 192.0.2.7: until {said['server']['expires']}\n" in listing
    assert "operator alice: not kept here; 3 made, 3 revoked" in listing


@pytest.mark.parametrize("verb", ["issue", "renew", "revoke"])
@pytest.mark.parametrize("name", ["+", "#", "a/b", "A", "ä", "../devices", "x" * 64, "\x1b[2J"])
def test_a_name_that_is_no_id_is_refused_and_shown_literally(
    folder: Path, verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert pki(folder, verb, "--role", "device", name) == Exit.USAGE
    assert "\x1b" not in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "4000"])
def test_a_life_that_makes_no_sense_is_refused(folder: Path, days: str) -> None:
    assert pki(folder, "issue", "--role", "device", "oven-1", "--days", days) == Exit.USAGE


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pki(folder, "revoke", "--role", "device", "nobody") == Exit.FAILED
    assert pki(tmp_path, "list") == Exit.FAILED
    (folder / "devices-ca.key").unlink()
    assert pki(folder, "issue", "--role", "device", "oven-1") == Exit.FAILED
    assert "devices-ca.key" in capsys.readouterr().err
