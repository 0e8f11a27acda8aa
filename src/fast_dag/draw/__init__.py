"""Pictures of workflows and runs: what is drawn is found once, then written anywhere."""
