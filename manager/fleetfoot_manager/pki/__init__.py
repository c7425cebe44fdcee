"""Certificates of a fleet: who is what at the broker and at the artifact server."""
