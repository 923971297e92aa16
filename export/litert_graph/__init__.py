"""Edits of a LiteRT file, and of the traced network that it is converted from."""
