"""`python -m tests.soak [MINUTES] [DEVICES]`, 30 and 1000 if nothing is said; 1 if anything grows."""

import sys
import tempfile
from pathlib import Path

from bench.common import more_files
from tests.soak.soaking import grown, soak

minutes, devices = (float(sys.argv[1]) if len(sys.argv) > 1 else 30.0), int((sys.argv[2:] or ["1000"])[0])
more_files()
with tempfile.TemporaryDirectory() as text:
    found = grown(soak(Path(text), devices, minutes * 60, lambda line: print(line, flush=True)))
for what in found:
    print(f"not flat: {what}", file=sys.stderr)
sys.exit(1 if found else 0)
