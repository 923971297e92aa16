"""ncnn: pnnx converts a network, whose weights are found again in its files and written as integers."""
