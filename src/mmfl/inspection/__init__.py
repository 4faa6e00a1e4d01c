"""What is in an archive, a store of patches, a partition or a run, and what of it is damaged.

`recognise` finds out which of them lies at a path; each has a module. `check` is for archives of
one's own, `gallery` loads the pictures of pages.
"""
