"""Python's collector of cycles, as suits a process that has a fleet in memory."""

import gc


def calm() -> None:
    """Look for cycles more seldom: they are few, and each look at a large fleet costs milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
