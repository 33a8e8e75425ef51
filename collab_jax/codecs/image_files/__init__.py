"""JPEG, WebP and AVIF files without the bytes that both ends know."""
