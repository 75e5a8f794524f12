"""Bytes in, bytes out: identities, labels, sealing, keystream, ring arithmetic, sharing. No sockets, no torch."""
