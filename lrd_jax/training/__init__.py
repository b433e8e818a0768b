"""From a config to a trained work directory: devices, state, step, optimizer, checkpoints, loop."""
