"""A simulation of the pace controller: `python -m benchmarks.pace` (docs/design/pace.md)."""
