"""Tools for maintainers, which run from the checkout: the open body's builder, drills, fuzzing."""
