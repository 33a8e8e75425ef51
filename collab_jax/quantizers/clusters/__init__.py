"""Quantizers that send cluster centroids."""
