"""How a network runs where it ships: as an ONNX graph, in each runtime, and how long a pass takes there."""
