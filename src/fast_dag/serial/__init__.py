"""Workflows as data, and back."""
