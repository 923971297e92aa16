"""What all benchmarks share: options, resuming, the header, and the one schema of their results."""
