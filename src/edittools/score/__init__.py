"""The command that measures pairs and results without asking a model for an opinion."""
