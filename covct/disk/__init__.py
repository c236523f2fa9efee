"""Files: where sources come from, and how an output tree outlives whatever ends the process."""
