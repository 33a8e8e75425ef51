"""Training of quantizer parameters: transforms and codebooks."""
