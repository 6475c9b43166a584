"""The demo: a real Copilot session survives ``kill -9`` in the middle of a turn. Run it with ``make demo``.

:mod:`~sessionfs_s3.demo.story` tells it, :mod:`~sessionfs_s3.demo.script` is what is said, and
:mod:`~sessionfs_s3.demo.replica_a` is the process that loses its runtime and becomes a ghost.
"""
