"""Results that are kept from one run to the next: keys, backends, and who computes what."""
