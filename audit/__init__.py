"""The audit reads ledgers, checks them, and draws the report; it takes no part in a run."""
