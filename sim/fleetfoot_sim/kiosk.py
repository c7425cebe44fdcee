"""The component that the demo and the tests upgrade: a real process that answers HTTP, or dies."""

import os
import sys
from pathlib import Path

COMPONENT = "kiosk"
ENTRYPOINT = "bin/kiosk"

_GOOD = """\
body = f"kiosk {VERSION}\\n".encode()
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(2)
        try:
            connection.recv(4096)
            head = f"HTTP/1.0 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
            connection.sendall(head.encode() + body)
        except OSError:
            pass  # a client that went away is no reason to end
"""

_DIES = """\
print(f"kiosk {VERSION} starts", flush=True)
time.sleep(0.2)
raise SystemExit("kiosk: cannot open the display")
"""


def _interpreter() -> str:
    """The line that starts a script here: without site packages, so that a kiosk starts in a moment."""
    line = f"#!{os.path.realpath(sys.executable)} -IS"
    # The kernel reads 255 bytes at most; older ones 127.
    return line if len(line) < 127 else "#!/usr/bin/env python3"


def write_tree(folder: Path, version: str, *, dies: bool = False) -> Path:
    """Write the tree of one version into `folder` and return it; with `dies` it starts and ends."""
    (folder / "bin").mkdir(parents=True)
    program = folder / ENTRYPOINT
    lines = [_interpreter(), "import os", "import socket", "import time", "", f'VERSION = "{version}"', ""]
    program.write_text("\n".join(lines) + (_DIES if dies else _GOOD), encoding="utf-8")
    program.chmod(0o755)
    (folder / "share").mkdir()
    (folder / "share" / "version").write_text(f"{version}\n", encoding="utf-8")
    (folder / "latest").symlink_to("share/version")
    return folder
