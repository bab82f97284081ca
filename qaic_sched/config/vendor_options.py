"""The vendor's compiler options, by the names that its Session accepts."""

from __future__ import annotations

__all__ = ["COMPILER_KEYS"]

_KEYS = """
    aic_depth_first_mem aic_enable_depth_first aic_perf_metrics aic_perf_warnings aic_pmu_events
    aic_pmu_recipe aic_preproc allocator_dealloac_delay always_expand_onnx_functions batchsize
    combine_inputs combine_outputs compile_only compile_threads convert_to_quantize
    custom_io_list_file ddr_stats dump_custom_io_config_template_file dump_embedding_tables
    dump_profile dynamic_shape_input enable_channelwise enable_debug enable_rowwise
    execute_nodes_in_fp16 external_quantization_file host_preproc io_crc io_crc_stride
    keep_original_precision_for_nodes load_embedding_tables load_profile mdp_dump_partition_config
    mdp_load_partition_config model_inputs mos multicast_weights mxfp6_matmul
    node_precision_info_file num_histogram_bins ols output_node_names percentile_calibration_value
    profiling_threads quantization_calibration quantization_precision quantization_precision_bias
    quantization_schema_activations quantization_schema_constants sdp_cluster_sizes
    size_split_granularity stats_batchsize time_passes use_producer_dma
    vtcm_working_set_limit_ratio
"""
COMPILER_KEYS = frozenset(_KEYS.split())
"""The names found in the vendor's documents and public command lines, spelled with `_`."""
