"""The package from a script: a checkpoint opened once, images and texts in, texts and NumPy arrays out."""
