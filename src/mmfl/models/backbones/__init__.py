"""Backbones: a file each, with `build(bands, width, norm) -> Backbone`."""
