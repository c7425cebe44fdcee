"""Loading paho without what an idle courier does not use: what a process imports is what it costs at rest.

paho 2.x loads two modules for what most devices never do. While it is loaded, others stand in their places;
whoever imports them later gets the real ones. What something else has loaded already is left as it is.

`urllib.request`, for proxies by way of PySocks: a tenth of an idle courier's memory. It is kept away from
paho unless PySocks is here.

`ssl`, of which a courier without TLS needs nothing (1.3 MiB). What paho has in its place looks everything up
in the real module, and so loads it, except for the two exceptions that paho names beside every read and
write: as long as nobody has loaded the real module, nobody can raise them.
"""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType


def load_paho() -> None:
    """Import paho's client; before anything else of the courier is imported."""
    aside = {}
    if "ssl" not in sys.modules:
        aside["ssl"] = _later_ssl()
    if "urllib.request" not in sys.modules and find_spec("socks") is None:
        aside["urllib.request"] = ModuleType("urllib.request")
    sys.modules.update(aside)
    try:
        import paho.mqtt.client  # noqa: F401
    finally:
        for name in aside:
            del sys.modules[name]


def _later_ssl() -> ModuleType:
    unheard = {name: type(name, (OSError,), {}) for name in ("SSLWantReadError", "SSLWantWriteError")}

    def look_up(name: str) -> object:
        if name in unheard and "ssl" not in sys.modules:
            return unheard[name]
        return getattr(importlib.import_module("ssl"), name)

    later = ModuleType("ssl")
    later.__dict__["__getattr__"] = look_up
    return later
