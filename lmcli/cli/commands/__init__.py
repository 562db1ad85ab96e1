"""The commands: each turns its options into what is to be done."""
