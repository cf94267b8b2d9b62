"""Judges: who rates the answers to questions without an exact truth. One file a kind, one interface."""
