"""The worker: decides, verifies, installs, proves health or goes back. Runs to exit, never resident."""
