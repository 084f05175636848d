"""Generation with trained models: the loop, stopping criteria, batches, streams, traces, mitigations, and probes."""

from fedsim.generation.driver import Piece, generate, sample, stream
from fedsim.generation.probing import hidden_states, probe
from fedsim.generation.trace_mitigation import veil

__all__ = ["Piece", "generate", "hidden_states", "probe", "sample", "stream", "veil"]
