"""Bringing the agent onto a systemd machine: adopting units, and working as the worker's own user."""
