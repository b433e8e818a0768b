"""A trained model in use: on a person's own input, in Python, and elsewhere."""
