"""ONNX Runtime, as the tests of the exporter use it."""

import jax
import numpy as np
import onnx
import onnxruntime


def session(data, optimised=True, save=None):
    """Returns a session of one thread. save: path for the optimised graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def answers(data, inputs, **options):
    """Returns the outputs of a file for a tree of inputs, after checking the file."""
    onnx.checker.check_model(data, full_check=True)
    run = session(data, **options)
    names = [i.name for i in run.get_inputs()]
    arrays = [np.asarray(x) for x in jax.tree.leaves(inputs)]
    return run.run(None, dict(zip(names, arrays, strict=True)))


def kinds(data):
    """Returns the kinds of the nodes of a file, in order."""
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def distance(model, data, inputs, **options):
    """Returns the greatest difference of an output, in parts of its range from or to 0."""
    expected = jax.tree.leaves(jax.jit(model.apply)(model.params, *inputs))
    worst = 0.0
    for ours, theirs in zip(answers(data, inputs, **options), expected, strict=True):
        theirs = np.asarray(theirs)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        wide = [np.asarray(x, np.float64) for x in (ours, theirs)]
        span = max(wide[1].max(initial=0) - wide[1].min(initial=0), 1e-30)
        worst = max(worst, float(np.abs(wide[0] - wide[1]).max(initial=0)) / span)
    return worst
