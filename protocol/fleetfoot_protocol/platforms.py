"""Names of platforms: what a machine calls itself, and what manifests and status call it.

A release built on one machine must meet a device of the same kind, so both sides take their words from
here. Standard library only.
"""

#: What `uname -m` and other systems say -> the word of manifests and status.
_MACHINES: dict[str, str] = {
    "x86_64": "amd64",
    "x64": "amd64",
    "amd64": "amd64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "x86": "386",
    "aarch64": "arm64",
    "arm64": "arm64",
    # A 64-bit kernel under a 32-bit system: what runs there is built for armv7.
    "armv8l": "armv7",
    "armv7l": "armv7",
    "armv7": "armv7",
    "armv6l": "armv6",
    "armv5tel": "armv5",
}


def normalise_machine(machine: str) -> str:
    """The word for a machine: ``x86_64`` is ``amd64``, ``aarch64`` is ``arm64``, ``armv7l`` is ``armv7``.

    Unknown machines keep their own name in lower case (``riscv64``, ``ppc64le``).
    """
    word = machine.strip().lower()
    return _MACHINES.get(word, word)


def normalise_system(system: str) -> str:
    """The word for an operating system, e.g. ``Linux`` -> ``linux``, ``Darwin`` -> ``darwin``."""
    return system.strip().lower()
