"""The command `edit caption`, and the home of all instruction text: grammar, lexicon, wording and styles."""
