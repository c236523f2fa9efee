"""From labelled data to what a network learns from."""
