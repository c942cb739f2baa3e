"""Where the weights of a model are, and what they are."""
