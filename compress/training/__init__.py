"""Training: the loop, the arithmetic it computes in, and what else looks at gradients and batch statistics."""
