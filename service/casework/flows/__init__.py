"""Sequences of steps with their transactions; flows never call each other."""
