"""Tests on an emulated board for ARM: ``make board``; left out of the fast tests, skipped where there can be none."""
