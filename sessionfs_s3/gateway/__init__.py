"""The gateway: one process in front of stateless runtimes, which gives every SDK durable sessions with no code.

Clients of any language connect as if it were a runtime. It listens, starts processes and reads the store.

:mod:`.server` puts it together. From the wire inwards: :mod:`.frames` and :mod:`.messages`; :mod:`.listener` lets
clients in (:mod:`.auth` says who they are), :mod:`.client` routes what they send (:mod:`.rules` says where to),
:mod:`.relay` passes it on; :mod:`.pool` keeps :mod:`.runtimes`, each with a :mod:`.link` that holds its provider slot, answered by
:mod:`.provider`; :mod:`.sessions` knows what is open where; :mod:`.catalogue` answers from the store.
"""
