"""Tests of what needs torch, onnx or TensorRT: run in the training environment (`make traintest`)."""
