"""Hooks of clients and servers, in the order in which they run.

    prepare    the model, before any training            components: layer, adapter, bottleneck, token_reducer; defenses
    initialise the model, from public examples           the same components
    craft      the model, before clients receive it      attacks of a malicious server
    augment    each batch                                components: augment; defenses
    draw       the hidden random inputs of a step        the task
    outputs    a forward pass, and its losses            the task
    objective  the training loss, from the outputs       components: loss, at most one
    loss       an added term of the training loss        components: loss; defenses
    examples   each example's gradient                   defenses, at most one
    gradient   each gradient, before the optimizer       defenses
    step       the weights, from the gradient            components: optimizer
    upload     the update, before it is sent             defenses
    aggregate  the vector of a round's updates           aggregators
    attack     reconstruct data from the observation     attacks
    score      membership score of each example          membership attacks
    describe   features of an update, for inference      attacks on attributes
    evaluate   the global model, on the test set         the task
    generate   a text or sample, with a trained model    components: decoder, sampler
    probe      hidden states of a trained model          components: probe
    veil       the observable trace of a generation      components: mitigation
    read       infer from traces of generations          attacks on traces
    forget     examples, from a trained federation       components: unlearning

Classes here are abstract; a method is a final subclass of one of them in a file of its own.
"""

from fedsim.core.grants import Grants
from fedsim.core.hooks.aggregators import Aggregator
from fedsim.core.hooks.attacks import Attack, BatchSeparationAttack, CostEstimate, Effort, LabelFreeAttack, check_update
from fedsim.core.hooks.components import (
    Adapter,
    Augmentation,
    Bottleneck,
    Component,
    Hook,
    Layer,
    LossTerm,
    ModelComponent,
    Objective,
    Optimizer,
    TokenReducer,
    VisualTokenReducer,
)
from fedsim.core.hooks.contexts import (
    GenerationContext,
    HookContext,
    LocalStep,
    NoiseAdder,
    PublicFederation,
    QuantisationGrid,
    ServerRound,
)
from fedsim.core.hooks.defenses import PLACES, Defense, Distortion, Place
from fedsim.core.hooks.generation import (
    BatchedState,
    Decoder,
    Generation,
    GenerationInputs,
    MaskedTextState,
    Mitigation,
    Sampler,
    Sampling,
    TextState,
    Unmasker,
    WeightedDecoder,
    check_place_scores,
    check_scores,
    mask_token_of,
)
from fedsim.core.hooks.kinds import KINDS_OF_COMPONENTS, RUN_AFTERWARDS
from fedsim.core.hooks.probes import Probe
from fedsim.core.hooks.unlearning import Part, Request, ServerEstimate, Unlearning
from fedsim.core.types.configured import (
    ANY_LABELS,
    ANYTHING,
    IMAGES,
    IMAGES_AND_TEXT,
    ConfigT,
    ConfiguredMethod,
    Tables,
)
from fedsim.core.types.tasks import Task

__all__ = [
    "ANYTHING",
    "ANY_LABELS",
    "IMAGES",
    "IMAGES_AND_TEXT",
    "KINDS_OF_COMPONENTS",
    "PLACES",
    "RUN_AFTERWARDS",
    "Adapter",
    "Aggregator",
    "Attack",
    "Augmentation",
    "BatchSeparationAttack",
    "BatchedState",
    "Bottleneck",
    "Component",
    "ConfigT",
    "ConfiguredMethod",
    "CostEstimate",
    "Decoder",
    "Defense",
    "Distortion",
    "Effort",
    "Generation",
    "GenerationContext",
    "GenerationInputs",
    "Grants",
    "Hook",
    "HookContext",
    "LabelFreeAttack",
    "Layer",
    "LocalStep",
    "LossTerm",
    "MaskedTextState",
    "Mitigation",
    "ModelComponent",
    "NoiseAdder",
    "Objective",
    "Optimizer",
    "Part",
    "Place",
    "Probe",
    "PublicFederation",
    "QuantisationGrid",
    "Request",
    "Sampler",
    "Sampling",
    "ServerEstimate",
    "ServerRound",
    "Tables",
    "Task",
    "TextState",
    "TokenReducer",
    "Unlearning",
    "Unmasker",
    "VisualTokenReducer",
    "WeightedDecoder",
    "check_place_scores",
    "check_scores",
    "check_update",
    "mask_token_of",
]
