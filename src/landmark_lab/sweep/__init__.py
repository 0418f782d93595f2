"""Sweeps: many runs of one experiment with other settings, from a Weights & Biases sweep file.

The same file serves W&B (``wandb sweep FILE``, then ``wandb agent ID`` on any number of machines)
and ``running.py``, which runs it here, one run after the other, without an account::

    program: landmark-lab
    command: [landmark-lab, train, experiments/demo.yaml, "${args_no_hyphens}"]
    method: random
    metric: {name: val/criterion, goal: minimize}
    run_cap: 20
    parameters:
      method.landmarks: {values: [5, 10, 20]}
      method.optimiser.lr: {distribution: log_uniform_values, min: 0.0005, max: 0.01}

Here ``grid`` takes all combinations in the order of the file, the last parameter fastest;
``random`` draws the i-th combination from (seed, i), so that a longer sweep begins with the shorter
one.
"""
