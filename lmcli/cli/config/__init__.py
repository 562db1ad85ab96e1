"""Options that are set outside the command line."""
