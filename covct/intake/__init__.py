"""From files to a scan that may be segmented: found, told apart, chosen, checked, read."""
