"""The six steps: each puts the packages together and reads from top to bottom."""
