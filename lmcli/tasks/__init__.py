"""Tasks: records in, records out, in order."""
