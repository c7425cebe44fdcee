"""`fleetfoot-agent doctor`: whether this device could be upgraded now, and come back; what to do if not."""
