"""The console: what a fleet does, at a glance, and what can be done about it."""
