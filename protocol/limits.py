"""Every bound in one place: what a peer may make us read, hold, or wait for.

Sizes are bytes, times are seconds. A bound that depends on the charter is a function of it.
"""

KIB = 1024
MIB = 1024 * KIB

# Names and text
NAME_LENGTH = 32
TEXT_LENGTH = 400
PARTIES = 100_000

# Bulk lane
RECORD_PLAINTEXT = MIB
"""Plaintext fed to the sealer a record; a multiple of Cobblestone's 16 KiB chunk."""
RECORD_WIRE = RECORD_PLAINTEXT + 8 * KIB
"""Largest frame accepted on the bulk lane: a record, its tags, and the body's 56-byte prefix."""
CREDIT_WINDOW = 8
"""Records a sender may have outstanding; with the queue bound below it caps what a receiver holds."""
BULK_QUEUE = CREDIT_WINDOW + 2
LAYOUT_BYTES = 16 * MIB
MODEL_BYTES = 64 * 1024 * MIB
TICKET_LIFETIME = 30.0
TICKETS_PER_PEER = 4

# Control lane
HANDSHAKE = 5.0
"""A connection that has not finished its handshake by then is dropped."""
CONTROL_QUEUE = 64
PING_EVERY = 2.0
SILENCE = 10.0
"""A peer not heard from for this long is reported as lost."""
LINGER = 1.0

# Keys and signatures
HPKE_PUBLIC_KEY = 1184 + 32
WRAPPED_KEY = 1168
SIGNATURE = 64
DIGEST = 32

# A party's own files
CHARTER_BYTES = 64 * MIB
SITE_BYTES = MIB
KEY_FILE_BYTES = 4 * KIB


def control_frame(parties: int) -> int:
    """Return the largest control frame, given how many parties the charter names.

    A frame can list every party with a commitment or a signature, and no more than that: 64 KiB cover the largest
    fixed message, 160 bytes a party cover a name, a digest, a signature and their framing.
    """
    return 64 * KIB + 160 * parties
