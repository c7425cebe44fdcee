"""`python -m fleetfoot_agent.courier`."""

import sys

from fleetfoot_agent.courier.main import main

sys.exit(main())
