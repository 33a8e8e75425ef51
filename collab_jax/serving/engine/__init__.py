"""Continuous batching on the device: decode slots and compiled programs."""
