"""LiteRT: a traced network becomes a file, and each edit of that file is one module."""
