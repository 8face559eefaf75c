"""Lowering: from a graph in float to its fake-quantized graph, op by op."""
