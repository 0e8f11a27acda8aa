"""Schedules: pure bookkeeping of what has ended and what may start."""
