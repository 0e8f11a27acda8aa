"""Observers of a run in progress: callbacks, the bar, the log."""
