"""One way to reach a VLM per file: `load(...)` gives a client."""
