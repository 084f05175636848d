"""Client components: changes to the model, the training step or generation.

A folder per hook, a file per method.
"""
