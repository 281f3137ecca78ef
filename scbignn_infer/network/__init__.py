"""Both levels and the graph of the cells, run by onnxruntime."""
