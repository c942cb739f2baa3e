"""The command `edit sample`: edits rows with a model."""
