"""python -m ferkit"""

from ferkit.cli import main

main()
