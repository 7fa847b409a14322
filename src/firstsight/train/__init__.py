"""Training: the loop, its state and the handlers of the training steps."""
