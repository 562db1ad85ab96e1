"""The engine: numpy in, numpy out. Knows no task."""
