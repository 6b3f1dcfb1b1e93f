"""Training: jobs, settings, and the loop over a bank."""

from palp.train.jobs import GUIDANCE, Job, JobSubject, joint_job, residual_job
from palp.train.losses import Losses
from palp.train.relay import Exams, Finished, Lap, Relay
from palp.train.settings import TrainSettings
from palp.train.trainer import Step, Trainer

__all__ = [
    "GUIDANCE",
    "Exams",
    "Finished",
    "Job",
    "JobSubject",
    "Lap",
    "Losses",
    "Relay",
    "Step",
    "TrainSettings",
    "Trainer",
    "joint_job",
    "residual_job",
]
