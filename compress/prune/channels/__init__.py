"""Channels that depend on each other: labelled, walked through the graph, grouped, masked and verified."""
