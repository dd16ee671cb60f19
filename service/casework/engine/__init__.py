"""Model packages and the runtimes that run them. The only owner of ONNX Runtime."""
