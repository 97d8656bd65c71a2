"""Other libraries' models on the ops of this one; each module is imported by its own name."""
