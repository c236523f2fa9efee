"""One series, step by step: from a scan to masks, figures and a report."""
