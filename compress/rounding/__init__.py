"""Rounding that is trained: scales learnt by gradients, weights of few levels, inputs as signs or few steps."""
