"""What a broker must do for Fleetfoot: who may speak where, and the checks of `fleetfoot broker check`."""
