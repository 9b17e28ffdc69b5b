"""Teachers: who knows better, in this process, in an engine or on a server."""

from s2t_ext.teachers import engine as engine
from s2t_ext.teachers import local as local
from s2t_ext.teachers import server as server
from s2t_ext.teachers.base import Teacher as Teacher
from s2t_ext.teachers.base import UnlabelledTrajectory as UnlabelledTrajectory
