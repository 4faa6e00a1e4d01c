"""Additions to a strategy, loss terms and state of their own: a file each, with `build`."""
