"""What is inside a model file: its layers, their precisions, its manifest; as data and as one HTML page."""
