"""A seeded simulation: replicas fight over a session in a store that fails; the shipped volume code, in virtual time.

One run is decided by its seed alone and can be repeated byte for byte: :mod:`.loop` replaces the clock, :mod:`.store`
the network and the store, :mod:`.databases` the processes that run SQL. :mod:`.world` has replicas and readers do
their worst: :mod:`.lives` says what a replica does, :mod:`.statements` with which SQL, :mod:`.deletions` what becomes
of a session that is deleted, and :mod:`.history` keeps what each was told. :mod:`.oracle` says what has to hold
afterwards, :mod:`.shadow` what a plain SQLite makes of it. :func:`simulate` does all of it.
"""

from sessionfs_s3.testing.simulation.run import Report, SimulationFailed, simulate

__all__ = ["Report", "SimulationFailed", "simulate"]
