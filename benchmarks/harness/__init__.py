"""What the benchmarks share: the servers behind a delaying proxy, a conversation to replay, what to measure with.

Starts processes and opens sockets on loopback; reads ``/proc``.
"""
