"""What criteria are made of: norms, gradients and activations of slices, and the samples that they are taken on."""
