"""Measure, explain and cure hallucination in vision-language models, in JAX."""

__version__ = "0.1.0"
