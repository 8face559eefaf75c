"""The rules of `hcjax.accelerate`: what a platform's compiler does badly, and how to write it.

A rule takes an equation and its place. It returns the function that replaces the
equation, or a sentence that says why it does not apply. Its docstring's first line says what it
does; the gain that it states is of one operation, from `benchmarks/rules.py` on 2 cores of an Intel
Xeon with jax 0.12.0.1, table "cpu" unless said. A platform without a table is left alone: nothing
here helps it until a measurement says so.
"""

from hcjax.accelerate.rules import convolution, dense, depthwise, gradients, integers, pooling, sums

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


# "cpu+onednn" is a CPU whose programs are compiled with `accelerate.compile.OPTIONS`: oneDNN has
# depthwise kernels (2 times as fast as ours), and XLA none for int8, in pairs or not;
# "cpu+fused" leaves what XLA fuses with the layers around it, for forward passes
RULES = {
    "cpu": _cpu(gradients.kernel_gradient_barred, first=(*_INT8, depthwise.depthwise)),
    "cpu+fused": {
        "reduce_sum": (sums.barred,),
        "dot_general": (dense.row_times_thin,),
        "conv_general_dilated": (*_INT8, depthwise.depthwise, convolution.few_pixels),
    },
    "cpu+onednn": _cpu(
        gradients.kernel_gradient_flat,
        gradients.kernel_gradient_barred,
        first=(integers.exact_float,),
        sum_rules=(sums.factored, sums.barred),
    ),
}

__all__ = ["RULES"]
