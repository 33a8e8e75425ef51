"""Transforms in front of another quantizer."""
