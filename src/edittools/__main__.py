"""`python -m edittools`, for where the console script is not on the path."""

from edittools.cli.main import main

if __name__ == "__main__":
    main()
