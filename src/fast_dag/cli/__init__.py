"""The command `fast-dag`."""
