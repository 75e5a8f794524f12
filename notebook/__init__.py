"""The tutorials' verbs over the real protocol: send, train, move, mean, get.

    from tertium import notebook

    with notebook.launch("tertium.learning.tasks.toy:Toy", {"bob": {"rows": [0, 1]}, "alice": {"rows": [2, 3]}}) as it:
        bobs, alices = it.model.send("bob").train(epochs=5), it.model.send("alice").train(epochs=5)
        model = notebook.mean(bobs.move(), alices.move()).get()

Whoever runs this is the model owner. The data owners and the secure workers are processes of their own, here or
elsewhere, and hold it to the charter as they hold any model owner.
"""

from .errors import NotebookError, SingleUpdateRefused
from .federation import Federation, connect, launch
from .verbs import Copy, Mean, Model, mean

__all__ = [
    "Copy",
    "Federation",
    "Mean",
    "Model",
    "NotebookError",
    "SingleUpdateRefused",
    "connect",
    "launch",
    "mean",
]
