"""Deterministic simulation: the real protocol, the real cores of manager and device, in a world of chance.

One seed is one story, and one story is one run: time is virtual, and all that is drawn comes from the seed.
"""
