"""What surrounds one node call, written once for sync and async."""
