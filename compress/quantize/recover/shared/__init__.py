"""What recovery methods share: networks run in pairs, layers that can be rescaled, moments, rows of products."""
