"""Field types that the documents share, each checked where it is declared."""

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from fleetfoot_protocol import times, topics, versions
from fleetfoot_protocol.strictjson import MAX_INTEGER

#: Control, format, surrogate, private-use and separator characters never belong in what people read.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
#: What RFC 3986 lets stand in a URL, without query and fragment.
_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]@!$&'()*+,;=%-]+")


def visible(text: str, allowed: str = "") -> str:
    """Return `text` if each character has a shape of its own (or is in `allowed`), else raise ValueError."""
    for char in text:
        if unicodedata.category(char) in _INVISIBLE and char not in allowed:
            raise ValueError(f"contains the invisible character U+{ord(char):04X}")
    return text


def _visible_with(allowed: str) -> Callable[[str], str]:
    return lambda text: visible(text, allowed)


def _check_time(text: str) -> str:
    times.from_text(text)
    return text


def _check_url(text: str) -> str:
    # Looked at before it is split: urlsplit drops what it does not like, and does not tell `/` from `/?`.
    if not _URL.fullmatch(text):
        raise ValueError("must be a plain http:// or https:// base URL in ASCII")
    parts = urlsplit(text)
    if not parts.hostname:
        raise ValueError("must name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry credentials")
    _ = parts.port  # raises ValueError where it is no port
    return text


Id = Annotated[str, StringConstraints(pattern=f"^{topics.ID_PATTERN}$")]
Digest = Annotated[str, StringConstraints(pattern=f"^{topics.DIGEST_PATTERN}$")]
Uint = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Version = Annotated[
    str,
    StringConstraints(max_length=versions.MAX_LENGTH),
    AfterValidator(versions.check),
    Field(json_schema_extra={"pattern": versions.PATTERN}),
]
Time = Annotated[
    str,
    AfterValidator(_check_time),
    Field(json_schema_extra={"format": "date-time", "pattern": times.PATTERN}),
]
Cut = Annotated[str, StringConstraints(pattern="^([0-9a-f]{16}|all)$")]
Salt = Annotated[str, StringConstraints(pattern=f"^{topics.ID_PATTERN}$")]
Word = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9_.+-]{0,31}$")]
LabelKey = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
Line = Annotated[str, StringConstraints(max_length=256), AfterValidator(visible)]
Label = Annotated[str, StringConstraints(max_length=128), AfterValidator(visible)]
Notes = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_visible_with("\n\t"))]
Url = Annotated[
    str,
    StringConstraints(max_length=512),
    AfterValidator(_check_url),
    Field(json_schema_extra={"format": "uri", "pattern": f"^{_URL.pattern}$"}),
]
KeyHex = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Channel = Literal["stable", "beta", "dev"]

#: Every channel a device that lists one admits: listing dev admits beta and stable too.
CHANNELS_ADMITTED: dict[str, frozenset[str]] = {
    "stable": frozenset({"stable"}),
    "beta": frozenset({"beta", "stable"}),
    "dev": frozenset({"dev", "beta", "stable"}),
}
