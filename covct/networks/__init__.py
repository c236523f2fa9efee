"""A network is a weight card and a function; which device it runs on."""
