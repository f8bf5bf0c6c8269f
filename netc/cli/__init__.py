"""The command line: one file per command, each with its table of flags and a `run(flags) -> exit code`."""
