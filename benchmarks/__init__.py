"""Measurements that back what the documentation claims: ``python -m benchmarks.NAME --help``, one claim in each."""
