"""`fleetfoot-agent enroll`: from a token to an identity."""
