"""How good answers are, measured against right ones."""
