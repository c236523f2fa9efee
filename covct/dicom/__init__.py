"""DICOM in and out: series to Scan, results to DICOM objects."""
