"""The command that makes preference pairs of candidates: a winner and a loser of one group."""
