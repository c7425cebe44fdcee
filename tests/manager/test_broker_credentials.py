"""What the manager shows a broker: refused before anything is opened where it could never work."""

from pathlib import Path

import pytest
from tests.agent.tinycert import write_certificate

from fleetfoot_manager.broker_address import Address, Credentials, parse_broker
from fleetfoot_protocol.errors import FleetfootError

PLAIN, TLS = Address("127.0.0.1", 1883), Address("127.0.0.1", 8883, True)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://127.0.0.1", PLAIN),
        ("mqtts://127.0.0.1", TLS),
        ("mqtts://127.0.0.1:1/", Address("127.0.0.1", 1, True)),
        ("mqtt://[::1]:2", Address("::1", 2)),
    ],
)
def test_a_url_says_where_and_whether_by_tls(url: str, address: Address) -> None:
    assert parse_broker(url) == address


@pytest.mark.parametrize(
    "url", ["http://x", "mqtts://", "mqtts://u@x", "mqtts://x/path", "mqtt://x:70000", ""]
)
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(FleetfootError) as caught:
        parse_broker(url)
    assert caught.value.code == "usage"


def test_a_certificate_and_a_password_are_taken(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    secret = tmp_path / "password"
    secret.write_text("opens the door\r\nand this is a note\n")
    shown = Credentials(ca=cert, cert=cert, key=key, username="manager", password_file=secret)
    shown.check(TLS)
    assert shown.password() == "opens the door"
    assert len(shown.context().get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("given", "address", "code"),
    [
        ({"cert": "tls.crt"}, TLS, "usage"),
        ({"key": "tls.key"}, TLS, "usage"),
        ({"password_file": "tls.key"}, TLS, "usage"),
        ({"ca": "tls.crt"}, PLAIN, "usage"),
        ({"cert": "tls.crt", "key": "tls.key"}, PLAIN, "usage"),
        ({"ca": "nowhere"}, TLS, "config_invalid"),
        ({"ca": "tls.key"}, TLS, "config_invalid"),
        ({"cert": "tls.crt", "key": "other.key"}, TLS, "config_invalid"),
        ({"username": "manager", "password_file": "nowhere"}, PLAIN, "config_invalid"),
    ],
)
def test_what_could_never_connect_is_refused(
    tmp_path: Path, given: dict[str, str], address: Address, code: str
) -> None:
    write_certificate(tmp_path)
    write_certificate(tmp_path, "other")
    values = {name: text if name == "username" else tmp_path / text for name, text in given.items()}
    with pytest.raises(FleetfootError) as caught:
        Credentials(**values).check(address)  # type: ignore[arg-type]
    assert caught.value.code == code
