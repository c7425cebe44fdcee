"""`python -m tests.soak [MINUTES] [DEVICES]`, 30 and 1000 if nothing is said; 1 if anything grows.

Each round is a line of JSON, and so is the end: what is left after the warm-up, as a trend.
"""

import json
import sys
import tempfile
from pathlib import Path

from bench.common import more_files
from tests.soak.soaking import grown, soak, trend

minutes, devices = (float(sys.argv[1]) if len(sys.argv) > 1 else 30.0), int((sys.argv[2:] or ["1000"])[0])
more_files()
with tempfile.TemporaryDirectory() as text:
    samples = soak(Path(text), devices, minutes * 60, lambda line: print(line, flush=True))
found, late = grown(samples), samples[len(samples) // 3 :]
gains = {"memory": round(trend([one.memory for one in late]), 1), "files": trend([one.files for one in late])}
print(json.dumps({"rounds": len(samples), "devices": devices, "gains_after_warm_up": gains}))
for what in found:
    print(f"not flat: {what}", file=sys.stderr)
sys.exit(1 if found else 0)
