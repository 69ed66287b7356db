"""What leaves the program: callbacks, foreign calls and kernels, and what only watches it."""

from .kinds import constant, opaque

_FOREIGN = opaque("a foreign function, whose derivative is not known here")
_HOST = opaque("a Python function that is called while the program runs")
_KERNEL = opaque("a kernel, which is not made of equations on arrays")
_USER = opaque("a primitive of the user's, of JAX's experimental `hijax`")
_EXTENDED = opaque("a cast between a dtype of the user's and the one that it is stored in")
_HOSTS = opaque("moves arrays between the hosts of a cluster")

# Without outputs, these are left out when the program is captured: they do not run.
_WATCHER = constant("0: no outputs", convention="does not run in the reference")

RULES = {
    "buffer_callback": _HOST,
    "call_exported": opaque("an exported program, which is compiled"),
    "call_hi_primitive": _USER,
    "check": _WATCHER,
    "core_map": _KERNEL,
    "custom_partitioning": opaque("a function that places its own parts on devices"),
    "custom_transpose_call": opaque("a linear function of which only the transpose is known"),
    "dce_sink": _WATCHER,
    "debug_callback": _WATCHER,
    "debug_print": _WATCHER,
    "ffi_call": _FOREIGN,
    "from_edtype": _EXTENDED,
    "get_global": _KERNEL,
    "global_array_to_host_local_array": _HOSTS,
    "host_local_array_to_global_array": _HOSTS,
    "inspect_sharding": _WATCHER,
    "io_callback": _HOST,
    "mpmd_map": _KERNEL,
    "pallas_call": _KERNEL,
    "pure_callback": _HOST,
    "to_edtype": _EXTENDED,
    "xla_pmap": opaque("runs on several devices; take the function inside"),
}
