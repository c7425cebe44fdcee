"""The manager: release catalogue, rollout engine, store, audit, embedded broker and artifact server."""
