"""Satellite imagery of label tiles, found by STAC search (docs/imagery.md).

`imagery` goes from tiles to files and outcomes; `scenes` chooses among what `catalogues` find,
`reading` brings their bands onto a tile's grid (`grids`), `web` makes the requests.
"""
