"""The command line: one file per subcommand, options on top, one library call at the bottom."""
