"""ExecuTorch: a network becomes a program whose operations XNNPACK runs."""
