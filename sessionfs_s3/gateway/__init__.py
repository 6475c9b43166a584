"""The gateway: one process in front of stateless runtimes, which gives every SDK durable sessions with no code.

Clients of any language connect as if it were a runtime. It listens, starts processes and reads the store.

:mod:`.server` puts it together. From the wire inwards:

* :mod:`.frames` and :mod:`.messages`: what goes over a connection;
* :mod:`.listener` lets clients in, :mod:`.auth` says who they are;
* :mod:`.client` routes what they send, :mod:`.rules` says where to, :mod:`.relay` passes it on;
* :mod:`.sessions` knows what is open where;
* :mod:`.pool` keeps :mod:`.runtimes`, each with a :mod:`.link` that holds its slot, answered by :mod:`.provider`;
* :mod:`.catalogue` answers from the store.
"""
