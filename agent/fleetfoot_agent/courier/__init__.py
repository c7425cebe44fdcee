"""The courier: the resident half of the agent, and the only one with a network (contract section 6).

It carries and decides nothing: bytes from the broker into the spool, blobs that the worker wants, events and
status from the spool to the broker. It imports paho and a light standard library, because what it imports is
what it costs a device while nothing happens.
"""
