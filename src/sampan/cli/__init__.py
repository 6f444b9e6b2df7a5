"""The command line: one module per noun, nothing heavy on the way of `run`."""
