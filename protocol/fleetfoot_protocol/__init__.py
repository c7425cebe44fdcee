"""The wire contract of Fleetfoot: topics, documents, envelopes, trust rules, arithmetic and codes.

Pure: no file, no clock, no network. Import the submodules; this package imports nothing by itself, so
that a process on a small device pays only for what it uses.
"""
