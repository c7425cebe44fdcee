"""``python -m tests.fuzz COUNT [FIRST]``: so many cases, from that number on; prints one line of JSON.

A violation is written to tests/fuzz/seeds/ and ends with status 1. The memory of this process is limited, so
that an input which makes the parser ask for a lot ends it.
"""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path

from tests.fuzz.target import Violation, check, one

SEEDS = Path(__file__).parent / "seeds"
#: What the address space may grow by, in bytes.
MEMORY = 256 << 20


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def keep(target: str, data: bytes) -> Path:
    """Keep an input that broke a rule, so that it is tried in every run of the tests from now on."""
    name = f"{target.replace(':', '-')}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path = SEEDS / name
    path.write_bytes(data)
    return path


def main(arguments: list[str]) -> int:
    count, first = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    began, slowest = time.monotonic(), 0.0
    accepted = {"outside": 0, "inside": 0, "form": 0}
    broken = 0
    for number in range(first, first + count):
        target, data = one(number)
        before = time.thread_time()
        try:
            accepted[target.partition(":")[0]] += check(target, data)
        except Violation as error:
            broken += 1
            print(f"case {number}: {error}; kept as {keep(target, data)}", file=sys.stderr)
        slowest = max(slowest, time.thread_time() - before)
    told = {
        "cases": count,
        "violations": broken,
        "unchanged_accepted": accepted["outside"],
        "valid_accepted": accepted["inside"],
        "slowest_ms": round(slowest * 1000, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(told))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
