"""A small text-to-image model of emoji, trained from nothing: what it sees, its parts, and how they are trained."""
