"""Commands that judge: checkpoints, answers that exist already, and differences."""
