"""The ranges of activations and weights: samples that run, and what follows from the values that they show."""
