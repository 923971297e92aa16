"""Integers: how the values of a tensor become some, and which of them the engine of a target wants."""
