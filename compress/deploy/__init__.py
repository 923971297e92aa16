"""Deployed files: written from a network, run in their engine, held against the network, timed."""

from .clock import MachineClock
from .deployed import Deployed
from .facts import machine, versions
from .measure import measure, require_valid
from .parity import accuracy, parity_on, reference
from .write import Asked, Wanted, export, suffix_of, write_files, write_folder

__all__ = [
    "Asked",
    "Deployed",
    "MachineClock",
    "Wanted",
    "accuracy",
    "export",
    "machine",
    "measure",
    "parity_on",
    "reference",
    "require_valid",
    "suffix_of",
    "versions",
    "write_files",
    "write_folder",
]
