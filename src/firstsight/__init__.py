"""When should a language model first see? Studies of image data in language-model pre-training.

The folders read as a sentence: want (`recipe`), know (`plan`), read (`data`), compute (`model`), learn (`train`),
judge (`evaluate`), tell (`report`). Importing this package imports none of them.
"""

__version__ = "0.1.0"
