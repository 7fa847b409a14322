"""What lies beside the weights of an exported folder: words, pictures' measures and the model card."""
