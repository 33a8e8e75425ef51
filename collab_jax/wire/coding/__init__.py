"""Entropy coding of message fields."""
