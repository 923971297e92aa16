"""What benchmarks compare with: other pruners, other quantizers, and networks of torchvision and timm."""
