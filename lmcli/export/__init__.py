"""Export: the only package that may import torch, transformers, optimum and onnx."""
