"""Changing a sample document, and asking how it is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.protocol.samples import DOCUMENTS

from fleetfoot_protocol import documents
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Document
from fleetfoot_protocol.errors import FormError, UpgradeError

Change = Callable[[Any], object]


def code_of(act: Callable[[], object]) -> Code | None:
    """The code that `act` is refused with, or None."""
    try:
        act()
    except UpgradeError as error:
        return error.upgrade_code
    return None


def refusal(kind: type[Document], payload: bytes) -> FormError:
    with pytest.raises(FormError) as caught:
        documents.read(kind, payload)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    return caught.value


def altered(name: str, change: Change) -> tuple[type[Document], bytes]:
    """The named sample with its JSON changed in place."""
    document = DOCUMENTS[name][1]
    obj = json.loads(document.payload())
    change(obj)
    return type(document), json.dumps(obj).encode()


def malformed(name: str, change: Change) -> str:
    """The cause for which the changed sample is malformed."""
    error = refusal(*altered(name, change))
    assert error.upgrade_code is Code.UPGRADE_MALFORMED
    return error.message


def accept(name: str, change: Change) -> Document:
    """The changed sample, which must be read, written and read again alike."""
    document = documents.read(*altered(name, change))
    assert documents.read(type(document), document.payload()) == document
    return document
