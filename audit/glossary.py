"""The words that a report uses, each in one sentence; the page ends with them, and docs/audit.md has them too."""

from typing import Final

TERMS: Final = (
    ("party", "whoever the charter names: the model owner, secure workers, data owners, evaluators"),
    ("charter", "the rules all parties signed before the run: who takes part, in which mode, how many make a sum"),
    ("update", "what one data owner's training changed in the model; it can give examples away"),
    ("contribution", "an update on its way, whole or in shares; who sent one is a contributor"),
    ("sum, aggregate", "the updates of several contributors added up"),
    ("round, attempt", "one step of training; an attempt that fails is given up, and the round is tried again"),
    ("cohort", "the data owners that are asked in a round"),
    ("sealed", "encrypted for one recipient, who alone can open it"),
    ("share", "one piece of an update, cut so that too few pieces say nothing"),
    ("holder", "a party that gets updates or shares by the mode"),
    ("collusion set", "parties that by the mode itself can read an update together"),
    ("receipt", "a holder's signed word that it has a contribution"),
    (
        "holder list, close",
        "who sent to one secure worker, as it says; and the signed, final list of who is in the sum",
    ),
    ("release", "letting a sum go to the model owner, once a round"),
    ("round statement", "a secure worker's signed word of what it released; the others sign under it, or cosign"),
    ("fingerprint, sum check", "a number by which contributors see that a sum is right, and its outcome, signed"),
    ("mask key, mask seed", "what contributors hide their fingerprints with"),
    ("round key", "a key that is made for one attempt and erased after it"),
    ("ledger, entry", "what a party's program wrote down, line by line, while it ran; and one line of it"),
    ("checkpoint", "a party's signature under all of its ledger so far, which others keep"),
    ("digest", "a number computed from data, by which any change of it shows"),
    ("bulk lane, control lane", "the connections that carry sealed bodies, and those for all else that is said"),
)
"""Word, and what it means; in the order in which one needs them."""
