"""MMBench: options, rotated or not."""
