"""The tests; what several of them use is in :mod:`tests.support`."""
