"""From a library's function to a graph."""
