"""Quantizers that send a subset of the vectors themselves."""
