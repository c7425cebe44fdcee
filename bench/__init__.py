"""Benchmarks. Each module but `common` has `figures(quick) -> list[Figure]`; `python -m bench` runs them.

A figure is a ratio with a limit that was measured in the same run on the same machine: never an absolute time
that would be another one tomorrow.
"""
