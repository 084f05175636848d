"""Undo what clients do to a batch before training: MixUp, CutMix, InstaHide, transforms."""
