"""Raw files -> prepared data -> batches."""
