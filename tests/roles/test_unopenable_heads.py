"""A head whose wrapped key opens nothing is refused, and then nothing has changed: what was good before still is."""

from typing import Any

from tertium.crypto.labels import Label, frame
from tertium.owner.machine import ModelOwner
from tertium.protocol.codec import decode_as
from tertium.protocol.messages import Header, Message, Release, SealedHead, SendModel
from tertium.secure_worker.machine import SecureWorker


def unopenable(machine: Any, head: SealedHead) -> SealedHead:
    """The same head with a wrapped key that opens nothing, properly signed."""
    wrapped = bytes(len(head.wrapped_key))
    label = decode_as(Header, head.header).label
    signature = machine.identity.sign(Label.HEADER, frame(label, [head.header, wrapped]))
    return SealedHead(head.header, wrapped, signature)


class SpoilsModels(ModelOwner):
    def send(self, peer: str, message: Message) -> None:
        super().send(peer, message)
        if isinstance(message, SendModel) and peer == "bob":
            super().send(peer, SendModel(head=unopenable(self, message.head)))


class SpoilsReleases(SecureWorker):
    def send(self, peer: str, message: Message) -> None:
        if isinstance(message, Release):
            super().send(peer, Release(head=unopenable(self, message.head)))
        super().send(peer, message)


def test_a_model_that_is_on_its_way_is_not_given_up_for_a_head_that_does_not_open(make: Any) -> None:
    run = make(3, machines={"owner": SpoilsModels})
    errors = run.run()
    assert "bad-wrapped-key" in run.refused("bob")
    assert not any(errors.values())
    assert run.statement(1).contributors == ("alice", "bob", "carol")


def test_a_release_that_does_not_open_does_not_stand_in_the_way_of_the_one_that_does(make: Any) -> None:
    run = make(3, machines={"third": SpoilsReleases})
    errors = run.run()
    assert "bad-wrapped-key" in run.refused("owner")
    assert "split-view" not in run.refused("owner")
    assert not any(errors.values())
    assert run.released == [1]
