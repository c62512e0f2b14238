"""Hold complexity down: terms that are added to the loss, and their strengths."""
