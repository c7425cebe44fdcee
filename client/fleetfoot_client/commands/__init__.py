"""The subcommands of `fleetfoot` that need the base install alone, one module for each."""
