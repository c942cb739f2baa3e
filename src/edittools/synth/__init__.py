"""The command `edit synth`: model-free synthesis, exact edits of an image with their instructions and masks."""
