"""What a prompt is made of: templates, examples and chat templates. Knows no model but its tokenizer."""
