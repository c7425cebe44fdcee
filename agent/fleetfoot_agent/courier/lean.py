"""Loading paho without what an idle courier does not use: what a process imports is what it costs at rest.

paho 2.x loads two modules for what most devices never do. Where something else has loaded one already, it is
left as it is.

`urllib.request`, for proxies by way of PySocks: a tenth of an idle courier's memory. It is kept away from
paho unless PySocks is here; a later import of it is the real one.

`ssl`, of which a courier without TLS needs nothing (1.3 MiB). In its place stands a module that becomes the
real one as soon as anybody asks it for anything, which whoever makes a TLS context does. Only the two
exceptions that paho names in the way of every read and write are there before: until then nobody raises them.
"""

import importlib
import sys
import threading
from importlib.util import find_spec
from types import ModuleType


def load_paho() -> None:
    """Import paho's client; before anything else of the courier is imported."""
    _put_off_ssl()
    name = "urllib.request"
    if name in sys.modules or find_spec("socks") is not None:
        return
    sys.modules[name] = ModuleType(name)
    try:
        import paho.mqtt.client  # noqa: F401
    finally:
        del sys.modules[name]


def _put_off_ssl() -> None:
    if "ssl" in sys.modules:
        return
    later = ModuleType("ssl")
    lock = threading.Lock()

    def load(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        with lock:
            if sys.modules.get("ssl") is later:
                del sys.modules["ssl"]
            found = importlib.import_module("ssl")
            later.__dict__.update(found.__dict__)
        return getattr(found, name)

    for name in ("SSLWantReadError", "SSLWantWriteError"):
        setattr(later, name, type(name, (OSError,), {}))
    later.__dict__["__getattr__"] = load
    sys.modules["ssl"] = later
