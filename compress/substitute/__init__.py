"""Substitute: compact layers in the place of costly ones, made from what these computed, then taught by them."""
