"""What opens one bulk connection; lanes make it, a control message carries it."""

import msgspec


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A one-time password for one bulk connection. Visible on the path: it only keeps strangers out."""

    subject: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Ticket({self.subject[:4].hex()}…)"
