"""The command `edit judge`: the opinion of a model, asked by rubric."""
