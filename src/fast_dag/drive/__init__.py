"""The only part that knows threads, processes and event loops."""
