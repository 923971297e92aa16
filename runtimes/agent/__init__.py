"""The far side of a device: what is sent there, runs there, and answers over its own stdin and stdout."""
