"""Durable runs: results that are kept as soon as they are there."""
