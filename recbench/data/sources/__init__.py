"""Readers of raw files, one module per owner of the files.

A reader of interactions, `read_<format>(path) -> Log`, reads lazily where polars can; a reader of items,
`<format>_items(path, wanted) -> DataFrame`, gives `item`, `raw_id` and only the features that the files have.
Modules are imported where they are needed, so that a reader costs nothing to those who do not use it.
"""
