"""The named reasons for which a message, a connection or a file is refused.

Each test of a refusal asserts one of these classes, and each stands at one numbered admission check or one line of a
round table. `Misuse` is for our own operator, `Misbehaviour` for a peer.
"""

from ..crypto.errors import Misbehaviour, Misuse


class CharterError(Misuse):
    """The charter cannot be used: malformed, unsigned, expired, older than one already run, or not ours."""


class SiteFileError(Misuse):
    """A site file is malformed, or laxer than the charter."""


class LaneError(Misuse):
    """A lane cannot be set up: an address in use, a key that is no key."""


class JournalError(Misuse):
    """A party's journal cannot be read or written: a full disk, a damaged file, another process. The party ends."""


class BadEntry(Misuse):
    """An entry does not belong into this party's view ledger: a field out of bounds, or two that contradict."""


class MalformedMessage(Misbehaviour):
    """A frame is not a message of this protocol, or exceeds a bound."""


class IllegalMessage(Misbehaviour):
    """A message arrived in a phase in which its sender may not send it."""


class StrangerKey(Misbehaviour):
    """A connection was opened with a CURVE key the charter does not name."""


class Flooding(Misbehaviour):
    """A party sends more control frames than any round needs, and was cut off for a while."""


class NotInCharter(Misbehaviour):
    """A message names a party the charter does not."""


class WrongRole(Misbehaviour):
    """A party of the charter did what its role does not do."""


class WrongSender(Misbehaviour):
    """A message names another sender than the connection it came on."""


class WrongCharter(Misbehaviour):
    """A message belongs to another charter."""


class WrongSession(Misbehaviour):
    """A message belongs to another session."""


class WrongRound(Misbehaviour):
    """A message belongs to another round."""


class WrongAttempt(Misbehaviour):
    """A message belongs to another attempt of this round."""


class WrongRecipient(Misbehaviour):
    """An envelope is addressed, or its key is wrapped, to someone else."""


class WrongLabel(Misbehaviour):
    """An envelope holds something that its sender may not send to its recipient."""


class WrongOpenRound(Misbehaviour):
    """A message answers another OpenRound than the one signed for all."""


class WrongPlan(Misbehaviour):
    """A question asks for other holders, another plan, weight rule or task, or more, than the charter allows."""


class WrongModel(Misbehaviour):
    """The model that arrived is not the one the OpenRound names."""


class GateShut(Misbehaviour):
    """The release gate holds back a sum that would give one contribution away."""


class UnsupportedVersion(Misbehaviour):
    """An envelope's version or suite is not one this release knows."""


class OversizedClaim(Misbehaviour):
    """An envelope claims a length other than the one the round's plan fixes."""


class NotInCohort(Misbehaviour):
    """A data owner that the OpenRound does not name, or that declined, wants to contribute."""


class AlreadyContributed(Misbehaviour):
    """A second upload for a slot that has its receipt."""


class Unsummable(Misbehaviour):
    """A contributor set for which this holder has no total: a share is missing, or one too many is in it."""


class TooLate(Misbehaviour):
    """An upload announced after the contributor set was closed."""


class UnknownTicket(Misbehaviour):
    """A bulk connection showed a ticket that was never granted."""


class ExpiredTicket(Misbehaviour):
    """A bulk connection showed a ticket after its lifetime."""


class ReusedTicket(Misbehaviour):
    """A bulk connection showed a ticket a second time."""


class CreditExceeded(Misbehaviour):
    """A sender sent more records than it had credit for."""


class SplitView(Misbehaviour):
    """One party signed two different things where the protocol allows one."""


class DisputedContribution(Misbehaviour):
    """A Close list has a contribution of ours that we did not send; its signer lied, or whoever counts it did."""


class BrokenLedger(Misbehaviour):
    """A party's view ledger contradicts itself, or a checkpoint that the party signed."""


class PeerLost(Misbehaviour):
    """A party the protocol cannot go on without is no longer connected."""
