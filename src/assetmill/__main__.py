"""`python -m assetmill`."""

from assetmill.cli import main

if __name__ == "__main__":
    main()
