"""One file per box of the graph in dvc.yaml."""
