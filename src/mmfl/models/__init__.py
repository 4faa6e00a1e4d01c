"""Backbones, whitening, fusion, losses, the multi-modal network."""
