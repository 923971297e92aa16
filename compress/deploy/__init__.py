"""Deployed files: written from a network, run in their engine, held against the network, timed."""

from .beside import beside
from .clock import MachineClock
from .deployed import Deployed
from .devices import opened, target_on
from .facts import machine, versions
from .measure import broken_off, measure, require_valid
from .parity import accuracy, parity_on, reference, scores
from .profile import needs
from .write import Asked, Wanted, engine_of, export, suffix_of, write_files, write_folder

__all__ = [
    "Asked",
    "Deployed",
    "MachineClock",
    "Wanted",
    "accuracy",
    "beside",
    "broken_off",
    "engine_of",
    "export",
    "machine",
    "measure",
    "needs",
    "opened",
    "parity_on",
    "reference",
    "require_valid",
    "scores",
    "suffix_of",
    "target_on",
    "versions",
    "write_files",
    "write_folder",
]
