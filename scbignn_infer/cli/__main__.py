"""Run as ``python -m scbignn_infer.cli``."""

from scbignn_infer.cli import main

main(prog_name="scbignn-infer")
