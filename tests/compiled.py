"""`jax.jit` for code that runs a few times only: nearly all of its time is compilation."""

import functools

import jax

# Half the time of compilation, for slower programs with the same results.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

quick = functools.partial(jax.jit, compiler_options=QUICK)
