"""Commands of the command line that would be long in `cli`, each with its options."""
