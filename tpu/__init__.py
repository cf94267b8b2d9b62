"""What fits on which TPU, by the TPU compiler's own word, on a machine that has none."""
