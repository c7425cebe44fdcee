"""Simulated fleets: the demo, rehearsals and load, made of the same code that runs on devices."""
