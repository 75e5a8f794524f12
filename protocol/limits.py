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
RECORD_WIRE = RECORD_PLAINTEXT + 32 * KIB
"""Largest frame accepted on the bulk lane: a record, its tags, and the body's 56-byte prefix."""
CREDIT_WINDOW = 8
"""Records a sender may have outstanding; with the queue bound below it caps what a receiver holds."""
BULK_QUEUE = CREDIT_WINDOW + 2
LAYOUT_BYTES = 16 * MIB
MODEL_BYTES = 64 * 1024 * MIB
COORDINATES = 2**31
"""Most coordinates of an update; a secure worker's own memory limit (`--memory`) is lower."""
VECTOR_MEMORY = 4 * 1024 * MIB
"""Largest summed vector a secure worker makes room for; it holds one, and a staging buffer an upload in flight."""
UPLOADS_IN_FLIGHT = 2
"""Bodies a secure worker opens at once. Each has a staging buffer as long as the vector; more would cost memory."""
STALL = 15.0
"""A transfer that has not moved for this long is given up."""
TICKET_LIFETIME = 30.0
TICKETS_PER_PEER = 4
TICKET_SECRET = 16
SUBJECT_BYTES = 64
"""Longest name of a transfer; a digest has 32. Twice as many hex digits must fit ZMTP PLAIN's 255."""
SPENT_TICKETS = 4096
"""How many used and expired tickets are remembered, so that a second use is named for what it is."""
BULK_IDLE = 60.0
"""A bulk connection on which no record moved either way for this long is ended."""
RECORDS_A_POLL = 16
"""Records read from one bulk socket before the others have their turn; a `poll` returns no more of them at once."""
BULK_DRAIN = 30.0
"""How long a bulk connection that was closed with records queued may take to send them."""

# Control lane
HANDSHAKE = 5.0
"""A connection that has not finished its handshake by then is dropped."""
BACKLOG = 4096
"""Connections the kernel keeps until we take them. With libzmq's 100 a crowd of strangers keeps honest ones waiting for
seconds: the kernel drops their first packets."""
CONTROL_QUEUE = 64
PING_EVERY = 2.0
SILENCE = 10.0
"""A peer not heard from for this long is reported as lost."""
LINGER = 1.0
LOG_WINDOW = 10.0
LOG_LINES = 100
"""Refusals and warnings shown in that time; the rest are counted, or a stranger could fill a disk with our log."""
NOTED_OF_A_PEER = 1024
"""Messages and envelopes of one peer that go into the view ledger in an attempt; what comes beyond that is refused."""
REFUSALS_NOTED = 16
"""Refusals of one peer that go into it in an attempt; those beyond are not noted."""
EXHIBITS_REMEMBERED = 4096
"""Exhibits a party remembers to have kept; one that is kept again after so many others lies beside its ledger twice."""
EXHIBIT_OF_A_REFUSAL = MIB
"""Longest signed statement that is kept of a message that was refused."""
ABSENCE = 3.0
"""How long a round waits for a lost party that it can do without; one that it needs has `deadlines.absence`."""
CHALLENGES = 4
"""Most challenges to one sum: a model owner that was restarted asks again, perhaps with other totals."""
ATTEMPTS = 8
"""Most attempts at one round: a crash is also a way to drop somebody, so there is an end to them."""
RECONNECT_FIRST = 0.05
RECONNECT_MOST = 2.0
"""The pause before a control connection is opened again doubles from the first to the most."""
FRAMES_A_POLL = 64
"""Frames read from one control socket before the others have their turn."""
FLOOD_RATE = 256 * KIB
"""Bytes of control frames a second a party may send for long. A round takes a few KiB of a party, and a credit for each
4 MiB of a body; checking the signature of one announcement takes as long as moving 1 MiB."""
FLOOD_LEAST = 256
"""What the smallest frame counts for in that: looking at it is most of its cost."""
FLOOD_MOST = 16 * KIB
"""What the largest frame counts for in that: one that lists every party of a large charter is honest."""
FLOOD_BURST = 2 * MIB
"""Bytes beyond that rate before a party is cut off: more than a queue full of frames that count for the most."""
BANISHED = 10.0
"""How long a party that was cut off for a flood is kept out."""

# Keys and signatures
HPKE_PUBLIC_KEY = 1184 + 32
WRAPPED_KEY = 1168
HEADER_BYTES = 2 * KIB
SHARES = 32
"""Most shares of a contribution whose commitments a header lists; a scheme has 16 holders at most, and so many fit."""
SIGNATURE = 64
DIGEST = 32

# A party's own files
CHARTER_BYTES = 64 * MIB
SITE_BYTES = MIB
KEY_FILE_BYTES = 4 * KIB
LEDGER_ENTRY_BYTES = 8 * MIB
"""Longest entry of a view ledger; one about the sum of everybody in the largest charter takes half of it."""

# A capture of packets that an auditor reads
PACKET_BYTES = MIB
"""Longest packet of a capture; what tcpdump writes has 256 KiB at most."""
CAPTURE_PACKETS = 8 * 1024 * 1024
"""Most packets with content of one capture; where each lies takes 24 bytes of memory."""
CAPTURE_CONNECTIONS = 262_144
CAPTURE_INTERFACES = 1024
PATTERN_LEAST = 8
"""Shortest pattern to look for: shorter ones are found by chance in sealed bytes."""
PATTERN_BYTES = 64 * KIB
PATTERNS = 256

# Data sets
DATASET_FILE_BYTES = 256 * MIB
"""Most data one IDX file may unpack to."""
ENDPOINT_LENGTH = 270
"""`tcp://`, a host name (253 at most), a colon and a port."""
SERIAL = 2**53
DEADLINE = 7 * 24 * 3600.0
"""The longest a charter may let anything take."""
SAFE_COHORT = 3
"""Below this a contributor can subtract its own update and read another's."""


def control_frame(parties: int) -> int:
    """Return the largest control frame, given how many parties the charter names.

    A frame can list every party with a commitment or a signature, and no more than that: 64 KiB cover the largest
    fixed message, 640 bytes a party cover a name, a digest, a signature and their framing, and beside them the
    commitment that the abort of an earlier attempt lists, or the name in the lists of fifteen more secure workers.
    """
    return 64 * KIB + 640 * parties
