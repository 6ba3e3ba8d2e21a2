"""Where a teacher's outputs come from, and whether that teacher is any good."""
