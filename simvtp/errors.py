"""Errors that a user can mend.

Each message is one sentence (or two) that says what is wrong, where, and what to do. The command
line prints it without a traceback and exits with status 2; anything else is a defect of this
project and keeps its traceback.
"""


class UserError(Exception):
    """Something outside the code is wrong: a setting, a file, a disk, a server. The message is
    meant for the user.
    """


class ConfigError(UserError):
    """A setting does not exist, has the wrong type, or contradicts another one."""


class DataError(UserError):
    """A manifest, a clip or a split cannot be used."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or belongs to another configuration."""


class TrainingDiverged(UserError):
    """A loss became NaN or infinite."""


class RankLost(UserError):
    """Another process of a run that several processes share has gone away. That is no failure of
    the run: it continues.
    """


class Stopped(UserError):
    """The process was asked to stop; what was reached is saved, and the same call continues from
    there.
    """
