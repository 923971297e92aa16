"""Compact modules that compute nearly what a layer did, and how their weights follow from it."""
