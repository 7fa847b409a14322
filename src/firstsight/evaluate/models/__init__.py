"""Who is asked: checkpoints of firstsight, and other people's models, behind one interface."""
