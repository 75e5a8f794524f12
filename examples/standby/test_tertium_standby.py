"""The published kit on this scheme; run pytest here."""

from tertium.crypto.sharing.conformance import SchemeConformance
from tertium_standby import Standby


class TestStandby(SchemeConformance):
    """Every check of the kit."""

    scheme = Standby
