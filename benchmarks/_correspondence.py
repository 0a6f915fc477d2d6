"""The pairs: which call of the library and which configuration of diffusers make the same steps, and how closely.

The tolerances are what single-precision tables of sigma / alpha leave: some 1e-7 times what the weights amplify. Configurations marked ``own`` are
methods the library has in another form; their left side is written in ``_variants``.
"""

from typing import Any

from benchmarks._peers import Pair

MULTI, SINGLE, UNIPC = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"
KEEP = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
MINIMUM = {"final_sigmas_type": "sigma_min"}
NEVER = list(range(100))


def _ddim() -> list[Pair]:
    plain = {"clip_sample": False, "timestep_spacing": "leading"}
    rows = [
        Pair("DDIM", ("ddim", {}), ("DDIMScheduler", {**plain, "set_alpha_to_one": False}), tol, prediction=p, cut=1)
        for p, tol in (("noise", 1e-6), ("clean", 5e-7), ("velocity", 2e-6))
    ]
    return [
        *rows,
        Pair("DDIM, to the data", ("ddim", {}), ("DDIMScheduler", plain), 1e-6),
        Pair("DDIM, eta = 1", ("ddim", {"eta": 1.0}), ("DDIMScheduler", plain), 2e-6, stochastic=True, step={"eta": 1.0}),
        Pair(
            "DDIM as Euler in sigma / alpha",
            ("euler", {"clock": "rho", "scale": "alpha"}),
            ("EulerDiscreteScheduler", {}),
            2e-6,
            space="edm",
        ),
        Pair("DDIM", ("ddim", {}), (MULTI, {"solver_order": 1, **MINIMUM}), 1e-6),
        Pair(
            "DDIM, eta = 1",
            ("ddim", {"eta": 1.0}),
            (MULTI, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++", **MINIMUM}),
            3e-6,
            stochastic=True,
        ),
        Pair("Heun in sigma / alpha", ("edm_heun", {}), ("HeunDiscreteScheduler", {}), 1e-6, space="edm"),
        Pair("Algorithm 5 on x / alpha", ("dpm_solver", {}), ("KDPM2DiscreteScheduler", {}), 2e-6, space="edm", cut=1),
    ]


def _multistep() -> list[Pair]:
    def two(
        formula: str,
        ours: dict[str, Any],
        tol: float = 1e-6,
        make: str = "dpm_solver_pp",
        pair: dict[str, Any] | None = None,
        **options: Any,
    ) -> Pair:
        return Pair(formula, (make, ours), (MULTI, {"solver_order": 2, **options}), tol, **(pair or {}))

    exact, half = {"kind": "taylor"}, {"multistep": True}
    return [
        two("2M (Algorithm 7)", {}, **KEEP),
        two("2M (Algorithm 7)", {}, **KEEP, pair={"prediction": "clean"}),
        two("2M (Algorithm 7)", {}, **KEEP, pair={"prediction": "velocity"}, tol=1e-6),
        two("2M, exact weights", exact, solver_type="heun", **KEEP),
        two("2M, to the data", {}, lower_order_final=False),
        two("2M, short run", {"order": 2, "last": 1}, make="multistep", pair={"own": True}, **MINIMUM),
        two(
            "2M, flow",
            {},
            1e-6,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=1.0,
            pair={"prediction": "velocity", "space": "flow"},
        ),
        two("2M, uniform lambda", {}, use_lu_lambdas=True, **KEEP),
        two("multistep on the noise", half, 2e-6, "dpm_solver", algorithm_type="dpmsolver", **KEEP),
        two(
            "multistep on the noise, exact weights",
            {**half, **exact},
            3e-6,
            "dpm_solver",
            algorithm_type="dpmsolver",
            solver_type="heun",
            **KEEP,
        ),
        two("SDE 2M", {"sde": True}, 2e-6, algorithm_type="sde-dpmsolver++", **KEEP, pair={"stochastic": True}),
        two(
            "SDE 2M, exact weights",
            {"sde": True, **exact},
            2e-6,
            algorithm_type="sde-dpmsolver++",
            solver_type="heun",
            **KEEP,
            pair={"stochastic": True},
        ),
        two(
            "SDE 2M on the noise",
            {"sde": True, **half},
            5e-5,
            "dpm_solver",
            algorithm_type="sde-dpmsolver",
            **KEEP,
            pair={"stochastic": True},
        ),
        two(
            "SDE 2M on the noise, exact weights",
            {"sde": True, **half, **exact},
            5e-5,
            "dpm_solver",
            algorithm_type="sde-dpmsolver",
            solver_type="heun",
            **KEEP,
            pair={"stochastic": True},
        ),
        Pair("3M without its factor 2", ("multistep", {"order": 3}), (MULTI, {"solver_order": 3, **KEEP}), 3e-6, steps=20, own=True),
        *(
            Pair(
                f"DEIS-{o} in log rho",
                ("deis", {"order": o, "variable": "log_rho"}),
                ("DEISMultistepScheduler", {"solver_order": o, "solver_type": "logrho", "lower_order_final": False}),
                tol,
            )
            for o, tol in ((1, 2e-6), (2, 4e-6), (3, 5e-5))
        ),
    ]


def _singlestep() -> list[Pair]:
    old = {"algorithm_type": "dpmsolver"}
    uniform = {"use_exponential_sigmas": True, "lower_order_final": True}
    names = {"midpoint": "midpoint", "taylor": "heun"}

    def groups(order: int, form: str, kind: str, tol: float) -> Pair:
        name = f"{'3S' if order == 3 else '2S'} on the {'noise' if form == 'noise' else 'data'}, {kind}, nodes of the grid"
        options = {"solver_order": order, "solver_type": names[kind], **(old if form == "noise" else {}), **KEEP}
        return Pair(name, ("grouped", {"form": form, "orders": tuple(range(1, order + 1)), "kind": kind}), (SINGLE, options), tol, own=True)

    return [
        groups(2, "noise", "midpoint", 2e-5),
        groups(2, "noise", "taylor", 5e-6),
        groups(2, "clean", "midpoint", 1e-6),
        groups(2, "clean", "taylor", 1e-6),
        groups(3, "noise", "midpoint", 5e-5),
        groups(3, "noise", "taylor", 5e-6),
        groups(3, "clean", "midpoint", 2e-6),
        groups(3, "clean", "taylor", 1e-5),
        Pair("Algorithm 5", ("dpm_solver", {}), (SINGLE, {"solver_order": 2, **old, **uniform, **MINIMUM}), 5e-6, steps=13, every=2),
        Pair(
            "Algorithm 6",
            ("dpm_solver_pp", {"multistep": False}),
            (SINGLE, {"solver_order": 2, **uniform, "final_sigmas_type": "zero"}),
            1e-6,
            steps=13,
            cut=1,
            every=2,
        ),
    ]


def _unipc() -> list[Pair]:
    tols = {("clean", 1): 2e-6, ("clean", 2): 5e-6, ("clean", 3): 5e-6, ("noise", 1): 2e-6, ("noise", 2): 2e-5, ("noise", 3): 5e-4}
    rows = [
        Pair(
            f"UniPC-{o}, {variant}, {'data' if form == 'clean' else 'noise'}",
            ("unipc", {"order": o, "variant": variant, "form": form}),
            (UNIPC, {"solver_order": o, "solver_type": variant, "predict_x0": form == "clean", **KEEP}),
            tols[form, o],
        )
        for form in ("clean", "noise")
        for o in (1, 2, 3)
        for variant in ("bh1", "bh2")
    ]
    off = {"disable_corrector": NEVER, "solver_type": "bh2", **KEEP}
    return [
        *rows,
        Pair("UniP-2 = 2M", ("dpm_solver_pp", {}), (UNIPC, {"solver_order": 2, **off}), 1e-6),
        Pair("UniP-2 on the noise", ("dpm_solver", {"multistep": True}), (UNIPC, {"solver_order": 2, "predict_x0": False, **off}), 2e-6),
        Pair("UniP-3", ("unipc", {"order": 3, "corrector": False}), (UNIPC, {"solver_order": 3, **off}), 5e-6),
    ]


def pairs() -> list[Pair]:
    """All of them."""
    return [*_ddim(), *_multistep(), *_singlestep(), *_unipc()]
