"""What is told of a run that ended: found once, then written as text or as a page."""
