"""The secure worker: admits sealed contributions, adds them, releases only the sum. Never loads torch."""
