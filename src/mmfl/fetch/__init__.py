"""Bytes from elsewhere: manifests, transfers, unpacking."""
