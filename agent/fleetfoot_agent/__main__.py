"""``python -m fleetfoot_agent`` is `fleetfoot-agent`."""

import sys

from fleetfoot_agent.cli import main

sys.exit(main())
