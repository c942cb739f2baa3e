"""Human studies: a page that people rate on, and the scores of their answers."""
