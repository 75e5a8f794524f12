"""What a verified sum is held to, the same for the model owner and for every contributor.

The challenge is a digest of the signed heads of the totals that were combined and of a nonce of every contributor: a
secure worker has fixed its total, by a commitment in a head that names the Close list, before anybody can know it, and
a contributor sees its own nonce in its place. So a sum that is not that of the contributors' vectors passes for 2 of
2^61 - 1 challenges (`crypto/fingerprint.py`), however it was chosen.

What this shows, and to whom: to the model owner, that the sum it opened is that of the vectors the contributors say
they sent. To a contributor, that the model owner says so, and that the signed answers add up to the number it claims;
a model owner that lies about that number lies about its own model, which no contributor sees before the next round.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from ..crypto import fingerprint
from ..crypto.errors import BadWrappedKey, Misbehaviour
from ..crypto.labels import Label, digest
from ..crypto.sealing import check_public_key
from .charter import Charter, Role
from .check_messages import Challenge, MaskedFingerprint, MaskKey, SumCheck, SumState
from .codec import encode
from .context import RoundContext
from .errors import IllegalMessage, NotInCohort, SplitView, WrongOpenRound, WrongSender
from .exchange import Exchange
from .messages import CloseList, SealedHead, Signed
from .seats import Seats
from .session import contributor_set
from .statements import open_signed


def challenge_of(releases: Sequence[SealedHead], nonces: Sequence[bytes]) -> bytes:
    """Return the 32-byte challenge that follows from the releases' signed heads and the contributors' nonces."""
    return fingerprint.challenge_of([release.subject for release in releases], nonces)


def earlier(contributors: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the neighbours that seal a seed for this contributor; their masks are taken off."""
    return tuple(each for each in fingerprint.neighbours(contributors, name) if each < name)


def later(contributors: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the neighbours that this contributor seals a seed for; their masks are added."""
    return tuple(each for each in fingerprint.neighbours(contributors, name) if each > name)


def open_mask_key(charter: Charter, signed: Signed) -> MaskKey:
    """Return a contributor's offer of a key for seeds.

    Raises:
        the errors of `open_signed`; WrongSender, BadRecipientKey: it is somebody else's, or no key.
    """
    said = open_signed(charter, signed, MaskKey, Role.DATA_OWNER)
    if said.party != signed.signer:
        raise WrongSender("offers a key for somebody else's masks", party=signed.signer)
    check_public_key(said.key, party=signed.signer)
    return said


def neighbours_keys(
    charter: Charter, open_round: bytes, contributors: Sequence[str], name: str, keys: Sequence[Signed]
) -> dict[str, bytes]:
    """Return the keys of a contributor's neighbours, if these are they: for this very set, each signed by its owner.

    Raises:
        WrongSender, WrongOpenRound and what `open_mask_key` raises: named for what does not fit.
    """
    if tuple(each.signer for each in keys) != fingerprint.neighbours(contributors, name):
        raise WrongSender("shows the keys of others than our neighbours", party=charter.model_owner.name)
    found = {}
    for signed in keys:
        said = open_mask_key(charter, signed)
        if said.open_round != open_round or said.contributors != contributor_set(contributors):
            # Its signer may have offered it in another round; who shows it now has to answer.
            raise WrongOpenRound("shows a key for the masks of another sum", party=charter.model_owner.name)
        found[signed.signer] = said.key
    return found


@contextmanager
def passed_on_by(party: str) -> Iterator[None]:
    """Blame whoever passes on an envelope for what is wrong with it.

    Its signature may be spoilt, or it may be of another round: neither is its signer's doing. A wrapped key that does
    not open is, once the signature over it has verified.
    """
    try:
        yield
    except BadWrappedKey:
        raise
    except Misbehaviour as error:
        raise type(error)(f"passes on another envelope than it should: {error.reason}", party=party) from None


def check_releases(
    charter: Charter,
    exchange: Exchange,
    seats: Seats,
    context: RoundContext,
    close: CloseList,
    present: Sequence[str],
    challenge: Challenge,
) -> None:
    """Check that a challenge's heads fix a sum over the set of `close`: of enough holders, each its own total.

    Raises:
        IllegalMessage, SplitView and what `exchange.examine_passed_on` raises.
    """
    owner = charter.model_owner.name
    holders = challenge.holders
    if len(holders) < seats.enough or holders != tuple(name for name in present if name in holders):
        raise IllegalMessage(f"challenges with the releases of {', '.join(holders) or 'nobody'}", party=owner)
    if len(challenge.releases) != len(holders):
        raise IllegalMessage("challenges with other releases than one of each holder", party=owner)
    for sender, release in zip(holders, challenge.releases, strict=True):
        with passed_on_by(owner):
            header = exchange.examine_passed_on(release, Label.AGGREGATE, context, sender, owner)
        theirs = digest(CloseList.label, encode(msgspec.structs.replace(close, holder=sender)))
        if header.close != theirs or header.contributors != len(close.contributions):
            raise SplitView("releases a sum over another set than it closed with", party=sender)


def read_answers(
    charter: Charter,
    open_round: bytes,
    challenge: bytes,
    contributors: Sequence[str],
    answers: Sequence[Signed],
    *,
    shown_by: str,
) -> dict[str, int]:
    """Return the masked fingerprints in signed answers to one challenge, by contributor; `shown_by` answers for them.

    Raises:
        the errors of `open_signed`; NotInCohort, WrongOpenRound: an answer of somebody else, or to something else.
    """
    found = {}
    for signed in answers:
        said = open_signed(charter, signed, MaskedFingerprint, Role.DATA_OWNER)
        if said.party != signed.signer or signed.signer not in contributors or signed.signer in found:
            raise NotInCohort("shows an answer of somebody else, or one twice", party=shown_by)
        if said.open_round != open_round or said.challenge != challenge:
            raise WrongOpenRound("shows an answer to another challenge", party=shown_by)
        found[signed.signer] = said.value
    return found


def check_outcome(
    charter: Charter, contributors: Sequence[str], holders: Sequence[str], outcome: SumCheck, values: Mapping[str, int]
) -> None:
    """Check that an account of a check follows from the answers it shows.

    Raises:
        SplitView: it does not; the account is signed by the model owner.
    """
    owner = charter.model_owner.name
    if set(outcome.contradicted) - set(holders):
        raise SplitView("leaves a total out of the sum that nobody was to make", party=owner)
    whole = set(values) == set(contributors)
    if outcome.state is SumState.UNVERIFIED:
        if whole or not outcome.silent or set(outcome.silent) - set(contributors):
            raise SplitView("calls a sum unverified and names no contributor that was silent", party=owner)
        return
    if outcome.state is SumState.FAILED and outcome.fingerprint is None:
        return  # the totals contradict each other, or make what nobody can: the answers have no part in that
    agree = outcome.fingerprint is not None and fingerprint.agree(values.values(), outcome.fingerprint)
    if not whole or outcome.silent or agree is not (outcome.state is SumState.VERIFIED):
        raise SplitView(f"calls a sum {outcome.state.value}, which is not what the answers say", party=owner)
