"""The command line: the only package that may import typer and rich."""
