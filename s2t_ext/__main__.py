"""`python -m s2t_ext`."""

from s2t_ext.cli import main

main()
