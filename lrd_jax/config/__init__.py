"""What a run is: its keys, from file and command line to `config.json`."""
