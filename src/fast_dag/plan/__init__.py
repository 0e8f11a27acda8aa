"""A definition compiled: what an execution needs to know, frozen."""
