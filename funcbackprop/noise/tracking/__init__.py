"""The noise scale over the steps of a training run, from what each step has anyway."""
