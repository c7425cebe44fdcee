"""100 000 simulated devices through one manager, fifty to a connection: more than a machine has sockets for.

The same as `staged`, ten times as large; devices that share a connection are told once by the broker.
"""

import tempfile
from pathlib import Path

from bench import staged
from bench.common import Figure, more_files
from bench.setting import Setting

_DEFAULT = Setting()


def figures(quick: bool, setting: Setting = _DEFAULT) -> list[Figure]:
    """Everything of one large fleet."""
    devices = setting.devices or (1_000 if quick else 100_000)
    more_files()
    with tempfile.TemporaryDirectory() as text:
        return staged.whole(Path(text), devices, devices // 50, setting=setting)
