"""The signatures in plain Python: those of RFC 8032 and of libsodium, and nothing that libsodium refuses."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from tests.protocol.test_dsse import SMALL_ORDER

from fleetfoot_protocol import ed25519, keys

#: secret, public, message, signature: section 7.1 of RFC 8032.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
HOUSE = Path(__file__).parents[2]
SECRET, MESSAGE = bytes(range(32)), b"a message"
PUBLIC, SIGNATURE = ed25519.public_of(SECRET), ed25519.sign(SECRET, MESSAGE)
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


def sodium(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_the_standard(secret: str, public: str, message: str, signature: str) -> None:
    raw = [bytes.fromhex(text) for text in (secret, public, message, signature)]
    assert ed25519.public_of(raw[0]) == raw[1]
    assert ed25519.sign(raw[0], raw[2]) == raw[3]
    assert ed25519.verify(raw[1], raw[2], raw[3])


def test_it_makes_the_very_signatures_of_libsodium_and_each_believes_the_other() -> None:
    for seed in range(8):
        secret = hashlib.sha256(bytes([seed])).digest()
        message = secret * seed
        signature = SigningKey(secret).sign(message).signature
        assert ed25519.sign(secret, message) == signature
        public = bytes(SigningKey(secret).verify_key)
        assert ed25519.public_of(secret) == public
        assert ed25519.verify(public, message, signature)
        assert not ed25519.verify(public, message + b"x", signature)


def added(signature: bytes, number: int) -> bytes:
    """The signature with `number` added to its scalar."""
    scalar = int.from_bytes(signature[32:], "little") + number
    return signature[:32] + scalar.to_bytes(32, "little")


FORGED: dict[str, tuple[bytes, bytes]] = {
    "S + L": (PUBLIC, added(SIGNATURE, L)),
    "S + 2L": (PUBLIC, added(SIGNATURE, 2 * L)),
    "S + 1": (PUBLIC, added(SIGNATURE, 1)),
    "S of ones": (PUBLIC, SIGNATURE[:32] + b"\xff" * 32),
    "zeros": (PUBLIC, bytes(64)),
    "short": (PUBLIC, SIGNATURE[:-1]),
    "long": (PUBLIC, SIGNATURE + b"\0"),
    "short key": (PUBLIC[:-1], SIGNATURE),
    "no point as key": ((2).to_bytes(32, "little"), SIGNATURE),
    "no point as R": (PUBLIC, (2).to_bytes(32, "little") + SIGNATURE[32:]),
    "a y that is not reduced": ((P + 3).to_bytes(32, "little"), SIGNATURE),
    "another sign": (PUBLIC[:-1] + bytes([PUBLIC[-1] ^ 128]), SIGNATURE),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_is_not_well_formed_is_refused_as_by_libsodium(what: str) -> None:
    public, signature = FORGED[what]
    assert not ed25519.verify(public, MESSAGE, signature)
    assert not sodium(public, MESSAGE, signature)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_neither_keys_nor_parts_of_signatures(point: str) -> None:
    small = bytes.fromhex(point)
    assert not ed25519.verify(small, MESSAGE, small + bytes(32))
    assert not ed25519.verify(small, MESSAGE, SIGNATURE)
    assert not ed25519.verify(PUBLIC, MESSAGE, small + SIGNATURE[32:])


def test_no_flipped_bit_is_believed_and_nothing_that_libsodium_refuses() -> None:
    for bit in range(0, 512, 3):
        changed = bytearray(SIGNATURE)
        changed[bit // 8] ^= 1 << bit % 8
        assert not ed25519.verify(PUBLIC, MESSAGE, bytes(changed))
    for _ in range(50):
        public, signature = os.urandom(32), os.urandom(64)
        assert not ed25519.verify(public, MESSAGE, signature) or sodium(public, MESSAGE, signature)


def plus(point: ed25519.Point, other: ed25519.Point) -> bytes:
    return ed25519._encoded(ed25519._add(point, other))


def torsion() -> list[ed25519.Point]:
    """The points of small order that have a canonical form, but for the neutral one."""
    numbers = [int.from_bytes(bytes.fromhex(text), "little") for text in SMALL_ORDER]
    found = [(ed25519._x_of(number % 2**255, number >> 255), number % 2**255) for number in numbers]
    return [(x, y, 1, x * y % P) for x, y in found if x is not None and 1 != y < P]


def mixed(tried: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Keys and R with a part of small order, signed by who has the secret: the classic point of dissent.

    Whether the equation holds hangs on the hash, so several messages are tried for each.
    """
    scalar, prefix = ed25519._expanded(SECRET)
    owner = ed25519._times(scalar, ed25519._BASE)
    for small in torsion():
        for number in range(tried):
            message = b"%d" % number
            nonce = ed25519._hashed(prefix, message)
            public = plus(owner, small)
            for part in (ed25519._NEUTRAL, small):
                r = plus(ed25519._times(nonce, ed25519._BASE), part)
                answer = (nonce + ed25519._hashed(r, public, message) * scalar) % L
                yield public, message, r + answer.to_bytes(32, "little")


def malformed() -> Iterator[tuple[bytes, bytes, bytes]]:
    """What is written as P to P + 18, and its neighbours, as A and as R; wrong lengths; shifted S."""
    for number in [*range(P - 2, 2**255), *range(5)]:
        for sign in (0, 1):
            point = (number | sign << 255).to_bytes(32, "little")
            yield point, MESSAGE, SIGNATURE
            yield point, MESSAGE, point + bytes(32)
            yield PUBLIC, MESSAGE, point + SIGNATURE[32:]
    for length in (0, 1, 31, 33, 64):
        yield (PUBLIC * 2)[:length], MESSAGE, SIGNATURE
    for length in (0, 1, 32, 63, 65, 96, 128):
        yield PUBLIC, MESSAGE, (SIGNATURE * 2)[:length]
    for multiple in range(1, 16):
        yield PUBLIC, MESSAGE, added(SIGNATURE, multiple * L)
    for scalar in (0, 1, L - 1, L, L + 1, 2**252, 2**253, 2**255 - 1, 2**256 - 1):
        yield PUBLIC, MESSAGE, SIGNATURE[:32] + scalar.to_bytes(32, "little")


def test_libsodium_and_plain_python_are_of_one_mind_about_what_is_malformed() -> None:
    for case in malformed():
        assert not ed25519.verify(*case), case
        assert not keys.verify(*case), case


def test_no_point_has_a_second_form() -> None:
    """RFC 8032, 5.1.3: a y that is not below P is no point, also where the same y reduced is one."""
    twins = 0
    for number in range(P, 2**255):
        for sign in (0, 1):
            twins += ed25519._decoded((number - P | sign << 255).to_bytes(32, "little")) is not None
            assert ed25519._decoded((number | sign << 255).to_bytes(32, "little")) is None, number - P
    assert twins > 10
    assert ed25519._decoded(PUBLIC) is not None


def test_they_are_of_one_mind_about_keys_with_a_part_of_small_order() -> None:
    minds = []
    for case in mixed(6):
        minds.append(keys.verify(*case))
        assert ed25519.verify(*case) == minds[-1], case
    assert {True, False} == set(minds)


def test_they_are_of_one_mind_about_every_flipped_bit_of_the_key() -> None:
    for bit in range(256):
        changed = bytearray(PUBLIC)
        changed[bit // 8] ^= 1 << bit % 8
        assert not ed25519.verify(bytes(changed), MESSAGE, SIGNATURE)
        assert not keys.verify(bytes(changed), MESSAGE, SIGNATURE)


#: A part of what `make fallback` runs.
BRIEFLY = ("tests/protocol/test_root_chain.py", "tests/agent/test_rooting.py")


def test_the_tests_of_trust_hold_without_libsodium() -> None:
    environ = {**os.environ, "FLEETFOOT_WITHOUT_PYNACL": "1"}
    command = [sys.executable, "-m", "pytest", *BRIEFLY, "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, env=environ, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PyNaCl is hidden" in done.stdout


def test_keys_are_made_and_sign_without_libsodium_and_a_passphrase_says_what_it_lacks(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['nacl'] = None\n"
        "from fleetfoot_client.cli import main\n"
        f"assert main(['key', 'new', {str(tmp_path / 'a.key')!r}]) == 0\n"
        "from fleetfoot_client import lockbox\n"
        "lockbox.lock(bytes(32), 'a long passphrase')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "takes PyNaCl, which is not installed here" in done.stderr.splitlines()[-1]


def test_where_there_is_no_libsodium_it_takes_its_place() -> None:
    code = (
        "import sys; sys.modules['nacl'] = None\n"
        "from fleetfoot_protocol import keys, trust, dsse\n"
        "assert not keys.SODIUM\n"
        f"assert keys.public_of(bytes(range(32))).hex() == '{PUBLIC.hex()}'\n"
        f"public, signature = bytes.fromhex('{PUBLIC.hex()}'), bytes.fromhex('{SIGNATURE.hex()}')\n"
        "assert keys.verify(public, b'a message', signature)\n"
        "assert len(keys.generate()) == 32\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert keys.SODIUM
