"""Judgement: policies, outcomes of attacks, and evidence that a search failed."""
