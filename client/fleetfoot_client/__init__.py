"""The operators' SDK, the release and key tools, and the ``fleetfoot`` command."""
