"""Quantizers of the numbers in a vector: scalar, finite and vector codes."""
