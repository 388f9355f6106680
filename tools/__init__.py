"""Tools for maintainers, run from the checkout: the open body's builder, drills, fuzzing."""
