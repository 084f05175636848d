"""Every moment at which something may plug into a client or a server, in the order they run.

    prepare    the model, before any training            components: layer, adapter, bottleneck, token_reducer; defenses
    initialise the model, from public examples           the same components
    craft      the model, before clients receive it       attacks of a malicious server
    augment    each batch                                components: augment; defenses
    objective  the training loss, from the outputs       components: loss, at most one
    loss       one more term of the training loss        components: loss; defenses
    examples   each example's gradient                   defenses, at most one
    gradient   each gradient, before the optimizer       defenses
    step       the weights, from the gradient            components: optimizer
    upload     the update, before it is sent             defenses
    aggregate  one vector of a round's updates           aggregators
    attack     what the server does with what it saw     attacks
    score      how likely an example was trained on      membership attacks

Classes here are abstract; a method is a final subclass of one of them in a file of its own.
"""

from fedsim.core.hooks.aggregators import Aggregator
from fedsim.core.hooks.attacks import Attack, Effort, MembershipAttack, check_update
from fedsim.core.hooks.base import IMAGES, IMAGES_AND_TEXT, ConfigT, Configured
from fedsim.core.hooks.components import (
    KINDS_OF_COMPONENTS,
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
)
from fedsim.core.hooks.contexts import Grid, Here, LocalStep, Rules, ServerRound
from fedsim.core.hooks.defenses import PLACES, Defense, Place

__all__ = [
    "IMAGES",
    "IMAGES_AND_TEXT",
    "KINDS_OF_COMPONENTS",
    "PLACES",
    "Adapter",
    "Aggregator",
    "Attack",
    "Augmentation",
    "Bottleneck",
    "Component",
    "ConfigT",
    "Configured",
    "Defense",
    "Effort",
    "Grid",
    "Here",
    "Hook",
    "Layer",
    "LocalStep",
    "LossTerm",
    "MembershipAttack",
    "ModelComponent",
    "Objective",
    "Optimizer",
    "Place",
    "Rules",
    "ServerRound",
    "TokenReducer",
    "check_update",
]
