"""Whether a file gives what its network gives: agreement, accuracy, folders with samples, the gate to a device."""
