"""Whole federations in one process: the real role machines over in-memory lanes."""
