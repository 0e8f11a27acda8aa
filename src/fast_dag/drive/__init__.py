"""Drivers: the only part of the package that knows threads, processes and event loops."""
