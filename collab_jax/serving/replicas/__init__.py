"""Several servers behind one address, by Ray Serve: docs/serving.md."""
