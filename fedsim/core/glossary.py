"""Glossary of the project's terms, shown on pages and as docs/glossary.md."""

from __future__ import annotations

from typing import Final

TERMS: Final = {
    "PSNR": "Peak signal-to-noise ratio of a guess and the true picture, in decibels; higher is "
    "closer. Above 30 the difference is hardly visible; an exact copy has 160 in this project.",
    "arm": "A variant in a comparison, such as a defended and an undefended client. Arms of a record "
    "share seed, victims and everything that the comparison does not change.",
    "attack": "A method that reconstructs data, or infers membership, from an observation.",
    "backbone": "The part of a model that computes features from an input. In transfer learning it is "
    "pretrained and frozen.",
    "batch": "The examples over which a gradient is averaged.",
    "client": "A participant that owns data and trains on it locally.",
    "clipping": (
        "To scale an update down until its norm is at most a limit. It bounds the contribution of each example."
    ),
    "cohort": "The clients that the server samples in a round.",
    "component": "A part of a client's model or training that a scenario adds: a regulariser, an adapter, a "
    "bottleneck, an augmentation, a decoder.",
    "control": "The same setting without the defense, or with an attack that must succeed. Without it, an attack that "
    "recovered nothing proves nothing.",
    "defense": "A method that changes the batch, the model or the update so that the update says less about the data.",
    "draw": "The outcome of a client's hidden randomness in a local step: a batch, a dropout mask, a partner for "
    "mixing, a noise vector.",
    "dropout": "To switch off units of a network at random while it trains, each with probability p, anew for "
    "each example.",
    "dummy": "The input that a matching attack changes until its gradient equals the observed one.",
    "exact": "Of a guessed picture: every pixel is within half of 1/255, so the file of 256 steps is the same. Of a "
    "text: every token is right.",
    "exposure": "How much likelier a model finds a planted secret than random secrets of the same form, in bits.",
    "gradient": "For each weight of the model, how fast the loss grows with it. Training moves the weights against it.",
    "grant": "A fact that the threat model gives the attacker, listed under knows: labels, masks, rates, a batch size.",
    "guess": (
        "An attack's reconstruction of an example. An example without a guess is missing and gets the worst scores."
    ),
    "head": "The last layers of a model, which turn features into scores: one or a few linear layers.",
    "ideal attacker": "An attacker that makes the best guess which an update allows, worked out to first order at the "
    "truth, without a search. Its PSNR is a ceiling for attacks, and no guarantee.",
    "identified": "A guessed picture is identified if, among the true picture and 1,000 public pictures, the "
    "true picture is nearest to it, by SSIM or by the features of a small network. Under "
    "either criterion a blind guess is identified once in a thousand times.",
    "invalid": "Of a finding: its control, which has nothing to find, is clearly above chance. The attack has the "
    "answer from elsewhere, or the control is wrong, and the value does not count.",
    "local step": "A step of a client's optimizer between receiving the weights and sending its update.",
    "mask": "The entries that dropout kept and dropped, for an example at a dropout site.",
    "matching objective": "The function that a matching attack minimises: the distance between the gradient of its "
    "dummy and the observed gradient. Its value at the truth shows whether a search fell short.",
    "mitigation": (
        "A change of the observable of a generation, such as padding, that leaves the generated text unchanged."
    ),
    "observation": "Everything that the attacker gets: the update or sum that it saw, the model, and its grants.",
    "place": "The moment at which a defense acts: batch, model, examples, layers, norm, entries, noise or rounding.",
    "policy": "The limits that a user sets: how much may be recovered, and how much utility a defense may cost.",
    "record": "The file record.json of a run: scenario, environment, rounds, victims and scores.",
    "recovered": "State of an attacked example: its guess meets the success rule. The default rule is "
    "identified for a picture and exact for a text; a scenario may state another rule, which "
    "the report names.",
    "restarts": "How often a search begins anew, from other random values.",
    "scenario": "The file that describes a run: data, model, clients, defenses, attacks and threat model.",
    "secure aggregation": "A protocol with which the server learns the sum of the clients' updates, and none of them.",
    "site": "A place in the model where dropout draws a mask, named by its module.",
    "sweep": "Many runs of a scenario, over settings and seeds, with a common report.",
    "task": "The learning problem of a model. It defines the loss, the utility and the scores of guesses.",
    "threat model": "The attacker, its observation and its granted knowledge.",
    "trace": "How a text was written, step by step, in counts: tokens, layers, trials. Never the text, never seconds.",
    "truth": "The client's batch, masks and draws, which only the scorer has.",
    "undecided": "State of an unsettled result: the update may contain the data and the search failed, or "
    "an interval includes its limit.",
    "update": "The payload of a client after training: a gradient, or the received minus the trained weights.",
    "utility": "How good the trained model is at its task: accuracy, span F1, rank correlation.",
    "victim": "An attacked update with its training data. Intervals resample victims, since the examples "
    "of an update are not independent.",
    "view": "The attacker's observation of a round (each client's update, or only the sum) or of a generation.",
    "withstood": "Nothing was recovered, and no search could: its guess explains the update as well as the truth does, "
    "or the ideal attacker would recover nothing.",
}
