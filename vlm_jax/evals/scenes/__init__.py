"""Scores on a drawn world, where the truth is known."""
