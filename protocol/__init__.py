"""What all roles share: charter, messages, codec, round tables, limits, errors, lanes."""
