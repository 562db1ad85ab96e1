"""A run: from the options that all runs share to a finished output."""
