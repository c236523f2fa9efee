"""Many workers on one output tree, by Dask distributed: who does which series, where, and what becomes of it."""
