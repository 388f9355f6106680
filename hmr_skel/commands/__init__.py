"""The commands of `hmr-skel`, a module per family: `add_commands(subparsers)` and the functions that they run."""
