"""Scores, modality subsets, statistics over seeds."""
