"""Records: bytes in, bytes out. Knows no model."""
