"""LLaVA-Bench: a judge scores answers beside GPT-4's."""
