"""Pruning by measured latency: the times of layers at the widths asked for, and the widths chosen by them."""
