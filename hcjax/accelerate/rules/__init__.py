"""The rules of `hcjax.accelerate`: patterns that a platform's compiler is slow at, and rewrites.

A rule takes an equation and its place. It returns a function to replace the equation, or the reason
why it does not apply ("" where there is nothing to say). The first line of its docstring describes
the rewrite; the gain in it is of one operation, from `benchmarks/rules.py` on 2 cores of an Intel
Xeon with jax 0.12.0.1, with the table "cpu" unless another is named. A platform without a table has
no rewrites until one is measured to help.
"""

import jax

from hcjax.accelerate.rules import (
    convolution,
    dense,
    depthwise,
    gradients,
    integers,
    layers,
    native,
    pooling,
    sums,
)
from hcjax.native import onednn

_NATIVE = (native.native_kernel_gradient, native.native_transposed, native.native_convolution)
_ENDS = ("add", "max", "min", "jit", "pjit", "custom_jvp_call")  # of a layer
_INT8 = (integers.exact_float, integers.pixel_pairs)


def _cpu(*kernel_gradients, first, sum_rules=(sums.factored,)):
    """Returns the table of a CPU: first of all for convolutions, then for kernel gradients."""
    return {
        "reduce_window_max": (pooling.max_pool,),
        "reduce_window_sum": (pooling.sum_pool,),
        "select_and_scatter_add": (pooling.max_pool_gradient,),
        "reduce_sum": sum_rules,
        "dot_general": (dense.row_times_thin,),
        "conv_general_dilated": (
            *first,
            depthwise.depthwise_kernel_gradient,
            gradients.kernel_gradient_pointwise,
            convolution.few_pixels,
            gradients.kernel_gradient_columns,
            *kernel_gradients,
            gradients.input_gradient_phases,
            convolution.canonical_in_loop,
            convolution.barrier,
        ),
    }


# "cpu+native" has oneDNN's kernels from its own wheel, called from XLA's programs (hcjax.native);
# "cpu+onednn" is a CPU whose programs are compiled with `accelerate.compiler.OPTIONS`: oneDNN has
# depthwise kernels (2 times as fast as ours), and XLA none for int8, in pairs or not;
# "cpu+fused" keeps the ops that XLA fuses with the layers around them, for forward passes
RULES = {
    "cpu": _cpu(gradients.kernel_gradient_barred, first=(*_INT8, depthwise.depthwise)),
    "cpu+fused": {
        "reduce_sum": (sums.barred,),
        "dot_general": (dense.row_times_thin,),
        "conv_general_dilated": (*_INT8, depthwise.depthwise, convolution.few_pixels),
    },
    "cpu+native": _cpu(
        gradients.kernel_gradient_barred, first=(*_NATIVE, *_INT8, depthwise.depthwise)
    )
    | {"reduce_window_max": (pooling.wide_max_pool,)}
    | {"dot_general": (dense.native_rows, dense.row_times_thin)}
    | dict.fromkeys(_ENDS, (layers.native_layer,)),
    "cpu+onednn": _cpu(
        gradients.kernel_gradient_flat,
        gradients.kernel_gradient_barred,
        first=(integers.exact_float,),
        sum_rules=(sums.factored, sums.barred),
    ),
}

# whose groups of elementwise operations become generated loops (hcjax.accelerate.groups)
GROUPED = ("cpu+native",)


def here() -> str:
    """Returns the name of the table for programs that are compiled for this process, and run here.

    A native kernel is part of the process: where a program goes elsewhere, name its platform.
    """
    backend = jax.default_backend()
    return "cpu+native" if backend == "cpu" and not onednn.missing() else backend


__all__ = ["GROUPED", "RULES", "here"]
