"""The contracts of platforms that start containers: each maps what it is given to the ordinary scan, and its results to
the form that the platform takes."""
