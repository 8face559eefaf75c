"""Which members of families of tests are slow, or long; an entry that names none is found."""

from collections.abc import Iterable

# members of families whose other members are tried in the ordinary suite: these take seconds each,
# most of them for XLA to compile a network of their own
SLOW = (
    "test_docs.py::test_robustness",
    "attack/test_auto.py::test_integers_are_attacked_through_a_twin_and_by_queries",
    "attack/test_auto.py::test_the_misled_err_within_the_ball[linf-0.02]",
    "attack/test_auto.py::test_the_misled_err_within_the_ball[l2-0.1]",
    "attack/test_auto.py::test_it_goes_on_where_it_was_stopped",
    "attack/test_auto.py::test_eps_0_leaves_the_clean_accuracy",
    "attack/test_attacks.py::test_no_point_leaves_the_ball_and_keys_decide[square-l2]",
    "attack/test_attacks.py::test_stronger_attacks_mislead_at_least_as_many[l2]",
    "quantize/test_zero_points.py::test_every_reader_of_a_value_knows_its_zero_point[gate]",
    "quantize/test_zero_points.py::test_masks_of_attention_stay_exact[chosen -inf]",
    "quantize/test_zero_points.py::"
    "test_a_network_that_normalises_its_images_itself_keeps_its_precision[1000-",
    "quantize/test_same_bits.py::test_division_by_a_constant_is_one_in_both[chain]",
    "quantize/test_same_bits.py::test_rows_of_an_image_that_differ_are_added_in_float",
    "quantize/test_seldom.py::test_a_value_is_repeated_along_an_axis_of_what_it_meets[<lambda>0]",
    "quantize/test_seldom.py::test_an_op_in_float_reads_constants_at_any_batch_size",
    "quantize/test_seldom.py::test_a_function_may_follow_a_layer_at_once[<lambda>0]",
    "quantize/test_seldom.py::test_a_function_may_follow_a_layer_at_once[<lambda>2]",
    "quantize/test_int8.py::test_a_layer_may_read_fewer_bits_than_a_residual_sum_keeps",
    "quantize/test_int8.py::"
    "test_int8_is_the_fake_quantized_network_and_the_numpy_reference_bit_for_bit[lenet5]",
    "tasks/test_tasks.py::test_a_task_is_trained_and_scored[detection]",
    "tasks/test_tasks.py::test_a_task_is_trained_and_scored[multilabel]",
    "tasks/test_tasks.py::test_a_task_is_trained_and_scored[robust_regression]",
    "tasks/test_tasks.py::test_a_resumed_training_has_the_same_bits[detection]",
    "models/test_text_cnn.py::test_all_of_it_is_folded_shrunk_packed_and_in_integers",
    "models/test_sound_cnn.py::test_integers_leave_the_picture_in_float_and_a_file_holds_it",
    "quantize/test_entropy.py::"
    "test_a_table_of_embeddings_has_the_bits_of_a_kernel_and_they_are_counted[options0-",
    "models/test_foreign.py::test_any_library_s_network_is_trained_read_and_put_back[Haiku]",
    "models/test_foreign.py::test_any_library_s_network_is_trained_read_and_put_back[a function]",
    "graph/test_coverage.py::test_every_reading_knows_the_kind[reduce_window_min]",
    "graph/test_coverage.py::test_every_reading_knows_the_kind[tanh]",
    "graph/test_channels.py::"
    "test_a_network_without_channels_is_that_with_their_slices_zero[haiku resnet-False]",
    "graph/test_channels.py::"
    "test_a_network_without_channels_is_that_with_their_slices_zero[resnet20-",
    "quantize/test_codebook.py::"
    "test_every_weight_is_at_its_nearest_centroid_which_is_its_clusters_mean",
    "quantize/test_codebook.py::test_a_file_is_about_as_small_as_its_indices_entropy",
    "quantize/test_profiling.py::test_layers_stay_in_float_on_request_and_are_listed[lenet5]",
    "models/test_models.py::test_dropout_needs_a_key_in_training_only_and_follows_it[nin_tiny]",
    "models/test_models.py::test_dropout_needs_a_key_in_training_only_and_follows_it[vgg_tiny]",
    "models/test_networks.py::test_the_deeper_families_fit_eight_images[vgg_tiny]",
    "prune/test_prune.py::test_gradual_pruning_ends_at_exactly_what_masks_would_take[how2]",
    "prune/test_prune.py::test_gradual_pruning_ends_at_exactly_what_masks_would_take[how4]",
    "graph/test_batch_axis.py::test_what_keeps_images_apart_is_traced[determinants]",
    "graph/test_graph.py::test_gradients_are_the_functions_own[dense]",
    "graph/test_graph.py::"
    "test_traced_and_folded_networks_are_the_same_function_at_any_batch_size[linen]",
    "graph/test_channels.py::"
    "test_a_network_without_channels_is_that_with_their_slices_zero[linen-False]",
    "native/test_native.py::test_a_second_process_finds_the_program_compiled",
    "native/test_loops.py::test_devices_and_meshes",
    "quantize/test_int8.py::test_fewer_bits_are_the_same_in_both_forms[4-4]",
    "data/test_sources.py::test_a_spectrogram_is_a_part_of_the_network_that_ships",
    "app/test_cli.py::test_a_damaged_file_of_a_workdir_is_named[-config.json]",
    "models/test_foreign.py::test_any_library_s_network_is_trained_read_and_put_back[Equinox]",
    "quantize/test_zero_points.py::test_padding_is_zero_and_not_the_integer_zero[transposed]",
    "quantize/test_codebook.py::test_pruned_zeros_stay_zero_while_centroids_train",
    "quantize/test_seldom.py::test_a_function_may_follow_a_layer_at_once[<lambda>3]",
)

# slow ones of which CI has seen enough by their relatives: half a minute each; before a release
LONG = (
    "app/test_installed.py::test_the_commands_of_the_docs_from_another_folder",
    "export/test_hcz.py::test_damage_is_an_error_or_a_valid_model_with_a_right_checksum_too",
    "export/test_hcz.py::test_what_comes_back_goes_on_through_the_chain[linen]",
    "export/test_onnx.py::test_a_network_of_ours",
    "export/test_onnx.py::test_a_network_that_is_no_classifier",
    "export/test_onnx_exact.py::test_a_kind_of_op",
    "export/test_onnx_exact.py::test_a_network_of_a_library",
    "export/test_onnx_exact.py::test_a_network_that_is_no_classifier",
    "export/test_onnx_qdq.py::test_a_network_is_near",
    "export/test_stablehlo.py::test_every_network_keeps_its_bits[haiku resnet]",
    "graph/test_chain.py::test_every_link_of_the_chain_gives_the_same_logits[haiku resnet]",
    "graph/test_chain.py::test_every_link_of_the_chain_gives_the_same_logits[vgg]",
    "quantize/test_error_analysis.py::test_layers_that_read_fewer_bits_are_those_of_fake_quantize",
    "quantize/test_error_analysis.py::test_more_bits_are_nearer_everywhere",
    "quantize/test_profiling.py::test_what_is_timed_computes_what_the_networks_do",
    "quantize/test_same_bits.py::test_division_by_a_constant_is_one_in_both[affine]",
    "quantize/test_same_bits.py::test_division_by_a_constant_is_one_in_both[mean]",
    "serve/test_program.py::test_a_digit_drawn_on_the_page_is_recognised",
    "test_docs.py::test_the_guides_are_one_notebook",
    "test_deploy.py::test_the_commands_run_in_order",
)


def name_of(nodeid: str) -> str:
    """Returns 'folder/test_x.py::test_y[z]' of a test in tests/."""
    return nodeid.removeprefix("tests/")


def means(entry: str, name: str) -> bool:
    """Returns whether an entry means a test.

    One without parameters means the test with all of its own; one that ends in '-' all that begin
    so.
    """
    if name == entry or (entry[-1] == "-" and name.startswith(entry)):
        return True
    return "[" not in entry and name.startswith(f"{entry}[")


def stale(
    names: Iterable[str], files: Iterable[str], entries: Iterable[str] = (*SLOW, *LONG)
) -> list[str]:
    """Returns the entries that mean no test.

    Args:
      names: of the tests of the files that were collected, all of them.
      files: names of all files of tests there are; of those not collected nothing is known.
    """
    names = list(names)
    collected, there = {name.partition("::")[0] for name in names}, set(files)
    return [
        entry
        for entry in entries
        if (file := entry.partition("::")[0]) not in there
        or (file in collected and not any(means(entry, name) for name in names))
    ]
