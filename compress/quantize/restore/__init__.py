"""What rounding hurts most gets its bits back, until the network loses no more than it may."""
