"""The commands of the command line, each with its options; `covct.cli` registers them."""
