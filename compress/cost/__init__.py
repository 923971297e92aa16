"""What a network costs: multiply-adds, bytes, operations on bits, receptive fields."""
