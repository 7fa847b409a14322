"""The model: decoder, vision encoders, loss, generation, and its files."""
