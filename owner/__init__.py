"""The model owner: asks one question a round, gets one sum, takes one step."""
