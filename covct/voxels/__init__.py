"""Arrays of a scan and its masks: grids, labels, fields of view, model space."""
