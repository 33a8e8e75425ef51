"""Numerical routines for the vectors of one image."""
