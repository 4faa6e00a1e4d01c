"""The model from which the archive `simulated` is drawn (docs/simulated.md).

`facts` holds the numbers, `locations` draws who lies where and when, `pixels` draws the images,
`files` writes them as GeoTIFF in tar.zst. Nothing here is tuned to favour a method.
"""
