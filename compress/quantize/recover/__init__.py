"""What gives quantized networks their accuracy back without labels: each file one method on its own."""
