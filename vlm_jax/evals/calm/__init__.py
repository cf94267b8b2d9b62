"""Biases of judges and reward models (CALM, Ye et al. 2024): pairs, perturbations, comparers, rates."""
