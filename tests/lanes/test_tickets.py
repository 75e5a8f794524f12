"""The ticket book against a slow, obvious account of the same rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tertium.protocol import limits
from tertium.protocol.errors import ExpiredTicket, LaneError, ReusedTicket, UnknownTicket
from tertium.protocol.lanes.tickets import TicketBook
from tertium.protocol.ticket import Ticket

SUBJECTS = [bytes([number]) * 32 for number in range(6)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from(["ann", "bob"]), st.sampled_from(SUBJECTS)),
        st.tuples(st.just("redeem"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("end"), st.sampled_from(SUBJECTS), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1.0, limits.TICKET_LIFETIME]), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_book_agrees_with_the_rules(steps: list[tuple]) -> None:
    now = [0.0]
    book = TicketBook(lambda: now[0])
    # Every ticket ever granted: [ticket, peer, state, granted at]
    tickets: list[list] = []

    def live(entry: list) -> bool:
        return entry[2] == "used" or (entry[2] == "granted" and now[0] < entry[3] + limits.TICKET_LIFETIME)

    for step, first, second in steps:
        if step == "wait":
            now[0] += first
        elif step == "end":
            if (grant := book.by_subject(first)) is not None:
                book.end(grant)
            for entry in tickets:
                if entry[0].subject == first:
                    entry[2] = {"used": "reused", "granted": "expired"}.get(entry[2], entry[2])
        elif step == "grant":
            others = [e for e in tickets if live(e) and e[1] == first and e[0].subject != second]
            mine = [e for e in tickets if live(e) and e[1] == first and e[0].subject == second]
            try:
                grant, _old = book.grant(first, second)
            except LaneError:
                assert not mine
                assert len(others) >= limits.TICKETS_PER_PEER
                continue
            assert len(others) < limits.TICKETS_PER_PEER
            for entry in tickets:
                if entry[0].subject == second:
                    entry[2] = {"used": "reused", "granted": "expired"}.get(entry[2], entry[2])
            tickets.append([grant.ticket, first, "granted", now[0]])
        elif tickets:
            entry = tickets[first % len(tickets)]
            shown = entry[0] if second else Ticket(entry[0].subject, bytes(limits.TICKET_SECRET))
            expected = None
            if not second:
                expected = UnknownTicket
            elif entry[2] in ("used", "reused"):
                expected = ReusedTicket
            elif not live(entry):
                expected = ExpiredTicket
            if expected is None:
                assert book.redeem(shown.subject, shown.secret).ticket == entry[0]
                entry[2] = "used"
            else:
                with pytest.raises(expected):
                    book.redeem(shown.subject, shown.secret)


def test_what_is_remembered_of_spent_tickets_is_bounded() -> None:
    book = TicketBook(lambda: 0.0)
    first = book.grant("ann", SUBJECTS[0])[0].ticket
    for _ in range(limits.SPENT_TICKETS + 1):
        last = book.grant("ann", SUBJECTS[0])[0].ticket
    book.end(book.by_subject(SUBJECTS[0]))
    for ticket, error in ((first, UnknownTicket), (last, ExpiredTicket)):
        with pytest.raises(error):
            book.redeem(ticket.subject, ticket.secret)


def test_a_ticket_in_use_opens_no_second_connection() -> None:
    book = TicketBook(lambda: 0.0)
    new, _ = book.grant("ann", SUBJECTS[0])
    assert book.redeem(SUBJECTS[0], new.ticket.secret) is new
    with pytest.raises(ReusedTicket):
        book.redeem(SUBJECTS[0], new.ticket.secret)
