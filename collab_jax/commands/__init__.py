"""The subcommands of `collab-jax`, a file each with its flags and `main`."""
