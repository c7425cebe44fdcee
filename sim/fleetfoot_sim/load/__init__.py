"""Simulated devices in numbers: `fleetfoot sim`. What they decide is the real protocol code."""
