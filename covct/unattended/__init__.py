"""The night: many series, inboxes, runs, and all that an operator sees of them."""
