"""A resumed run keeps to the learning rates that it was started with."""

import math

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

from landmark_lab.errors import RunError


class ScheduleCheck(Callback):
    """Refuses to continue where the learning rate would jump.

    A schedule such as the cosine is a function of the training's length. Resumed with another
    length, it would go on at another place of another curve; the loss would not show it.

    Args:
        where: path of the schedule in the experiment file, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, LambdaLR):
                continue  # the others do not depend on the length
            groups = zip(
                scheduler.optimizer.param_groups,
                scheduler.base_lrs,
                scheduler.lr_lambdas,
                strict=True,
            )
            for group, base, factor in groups:
                rate, planned = float(group["lr"]), float(base * factor(scheduler.last_epoch))
                if not math.isclose(rate, planned, rel_tol=1e-9, abs_tol=1e-15):
                    raise RunError(
                        f"the training now has another length, and at step {trainer.global_step} "
                        f"the learning rate would jump from {rate:.4g} to {planned:.4g}",
                        where=self.where,
                        hint="continue with the trainer settings and devices that the run was "
                        "started with (its config.yaml), or start a new run from its checkpoint "
                        "(start_from: {checkpoint: ...})",
                    )
