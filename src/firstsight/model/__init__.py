"""Computing: tensors in, tensors out."""
