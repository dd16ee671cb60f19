"""What hostile bytes meet first, as functions of bytes: fuzzed by atheris, and by the tests for a moment each."""
