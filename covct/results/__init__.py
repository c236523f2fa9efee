"""What is written for a series, and read back: entries, pages, objects, their verification."""
