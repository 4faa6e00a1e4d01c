"""The model from which the simulated archives are drawn (docs/simulated.md).

`facts` holds the numbers, `locations` draws who lies where and when, `pixels` draws the images,
`files` writes them as GeoTIFF in tar.zst. `tile_facts` and `tiles` do the same for
`simulated-tiles`, whose labels are the land-cover maps. Nothing here is tuned to favour a method.
"""
