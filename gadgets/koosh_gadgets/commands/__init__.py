"""The subcommands of `koosh`, one module each with `add(subparsers)`."""
