"""Ed25519 in plain Python (RFC 8032), for machines for which nobody builds libsodium: 32-bit ARM, mostly.

It accepts nothing that libsodium refuses: scalars that are not reduced, points that are not written in the
one canonical way, and points of small order are refused, so that there is no second signature and no key for
everything. Slow: some milliseconds a signature on a desktop, many times that on a small board, which checks
a handful a day. Signing takes a time that depends on the key; whoever can measure that on the
device has the key's file at hand anyway. `keys` chooses; nothing else calls this.
"""

import hashlib

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

#: A point in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z (RFC 8032, section 5.1.4).
Point = tuple[int, int, int, int]

_NEUTRAL: Point = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    low, high = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    twist, scale = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = high - low, scale - twist, scale + twist, high + low
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: Point) -> Point:
    result = _NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _equal(a: Point, b: Point) -> bool:
    return (a[0] * b[2] - b[0] * a[2]) % _P == 0 and (a[1] * b[2] - b[1] * a[2]) % _P == 0


def _x_of(y: int, sign: int) -> int | None:
    """The x of the point with this y, even or odd as `sign` says; None if there is no such point."""
    squared = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(squared, (_P + 3) // 8, _P)
    if (x * x - squared) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if (x * x - squared) % _P or (x == 0 and sign):
        return None
    return x if x & 1 == sign else _P - x


def _decoded(data: bytes) -> Point | None:
    """The point that 32 bytes stand for, if they are its canonical form and its order is not small."""
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    x = _x_of(y, sign) if y < _P else None
    if x is None:
        return None
    point = (x, y, 1, x * y % _P)
    return None if _equal(_times(8, point), _NEUTRAL) else point


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    y = 4 * pow(5, _P - 2, _P) % _P
    x = _x_of(y, 0) or 0
    return x, y, 1, x * y % _P


_BASE = _base()


def _hashed(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _L


def _expanded(secret: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
    return scalar, digest[32:]


def public_of(secret: bytes) -> bytes:
    """The public key of a 32-byte secret key."""
    return _encoded(_times(_expanded(secret)[0], _BASE))


def sign(secret: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message`."""
    scalar, prefix = _expanded(secret)
    public = _encoded(_times(scalar, _BASE))
    nonce = _hashed(prefix, message)
    point = _encoded(_times(nonce, _BASE))
    answer = (nonce + _hashed(point, public, message) * scalar) % _L
    return point + answer.to_bytes(32, "little")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is valid. False for everything of a wrong length or shape."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, point = _decoded(public), _decoded(signature[:32])
    answer = int.from_bytes(signature[32:], "little")
    if key is None or point is None or answer >= _L:
        return False
    expected = _add(point, _times(_hashed(signature[:32], public, message), key))
    return _equal(_times(answer, _BASE), expected)
