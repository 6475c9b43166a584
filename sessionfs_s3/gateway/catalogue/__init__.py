"""Catalogue calls, answered from the store in the shapes and words of the runtime. Knows no connection."""
