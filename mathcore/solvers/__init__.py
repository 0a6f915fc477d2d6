"""Samplers as tables of coefficients (chapter 9): one file per family, one loop that runs them all.

times = grids.uniform_lambda(schedule, 20)
table = ddim(schedule, times, prediction="noise")
x_0 = table.run(model, x_T)
"""

from mathcore.solvers import grids
from mathcore.solvers.builder import Builder, Combination, Node, Output, State
from mathcore.solvers.ddim import ancestral, ddim, euler_maruyama
from mathcore.solvers.deis import deis
from mathcore.solvers.dpm_solver import dpm_solver, dpm_solver_pp
from mathcore.solvers.edm import edm_heun
from mathcore.solvers.euler import euler, heun, rk4
from mathcore.solvers.rows import Step
from mathcore.solvers.table import SolverTable
