"""Benchmarks of the engine: requests, bytes, times as ratios within one run, memory, CPU.

``python -m benchmarks.engine``. Start S3 servers and a delaying proxy on loopback, in processes of their own; write
nothing outside temporary directories.
"""
