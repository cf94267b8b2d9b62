"""Intervals and paired tests over images, and what every scorer gives to them."""
