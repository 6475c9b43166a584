"""The gateway: one process in front of stateless runtimes, which gives every SDK durable sessions with no code.

Clients of any language connect as if it were a runtime. It listens, starts processes and reads the store.
"""
