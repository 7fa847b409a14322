"""Import of public checkpoints, and export to folders that transformers loads.

This package imports nothing by itself, so that hub names can be resolved without torch;
`import firstsight.hub.hf_classes` registers firstsight's models with transformers' Auto classes.
"""
