"""Decentralisation scenarios: which group (agency, country, company) holds a location.

A scenario is a file with a function `groups(table, *, clients, seed, alpha)`, the group of each
row: names, or categories of which the unused ones are reported as empty. `table` has one row per
location: pair, split, labels, the modalities and the archive's group columns, such as country,
month, season, tile; a group column is a scenario, too. docs/partitions.md shows how to add one.
"""
