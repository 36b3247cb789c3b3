"""The work behind every stage, by topic."""
