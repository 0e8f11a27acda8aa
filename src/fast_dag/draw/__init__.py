"""Pictures of workflows and runs: what is drawn is decided once, then written in any language."""
