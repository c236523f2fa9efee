"""A local viewer in the browser: results and scans side by side, compared with a truth, corrected by a reader."""
