"""python -m archscout."""

from archscout.cli import main

main()
