"""Encoded patches on disk: writing, reading, batching, normalisation."""
