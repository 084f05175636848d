"""Client components: changes to the model, the training step or generation.

One folder per hook, one file per method.
"""
