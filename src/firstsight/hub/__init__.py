"""Weights that come and go: public checkpoints in, folders for transformers out.

Nothing is loaded here, so that a name can be looked up lightly; `import firstsight.hub.hf_classes` makes firstsight's
models known to transformers' Auto classes.
"""
