"""What users write: nodes, graphs, DAGs and machines."""
