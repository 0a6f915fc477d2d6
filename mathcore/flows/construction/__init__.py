"""Three constructions of a generative ODE: force fields (Green functions), characteristics, test functions; data at t = 0, prior at the end."""

from mathcore.flows.construction.characteristics import (
    CurveFamily,
    characteristic_field,
    characteristic_log_density,
    destination_thresholds,
    straight_line_clean,
    superposed_log_density,
    superposed_velocity,
    trace_back,
)
from mathcore.flows.construction.green import (
    MultivariateCauchy,
    conditional_radius_gap,
    pfgm_perturb,
    poisson_clean,
    poisson_field,
    poisson_log_prob,
    poisson_perturb,
    poisson_velocity,
)
from mathcore.flows.construction.kernels import IsotropicKernel
from mathcore.flows.construction.weak import (
    WeakOrder,
    gauss_hermite_pairs,
    standard_test_functions,
    weak_form_gap,
    weak_order,
    weak_rate,
)
