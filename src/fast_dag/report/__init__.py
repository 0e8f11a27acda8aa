"""A run explained, as text or as a page."""
