"""Data owners and evaluators: asked with one signed question, they train or score where the data is."""
