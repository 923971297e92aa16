"""What a batch means: inputs, labels, loss and score."""
