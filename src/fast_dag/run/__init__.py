"""One execution: what it was given, what came out, how every node stands."""
