"""A synthetic chest CT with known volumes."""
