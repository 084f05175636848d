"""Attacks that undo a client's changes of the batch before training: MixUp, CutMix, InstaHide, transforms."""
