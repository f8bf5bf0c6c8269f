"""The backends: for each node of a graph, the best step that fits its shapes."""
