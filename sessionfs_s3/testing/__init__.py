"""Test tools that ship with the package, for its own tests and for whoever writes an adapter or builds on it.

May start processes on loopback and make temporary directories; nothing of the package imports from here.
"""
