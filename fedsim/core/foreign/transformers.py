"""Undocumented names of transformers, an optional package."""

from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

__all__ = ["apply_rotary_pos_emb"]
