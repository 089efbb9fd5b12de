/** @file shapes.h  The models that rows are measured on, as config.json; the same shapes as in peer_llama.py. */
#ifndef GR_TESTS_BENCH_SHAPES_H
#define GR_TESTS_BENCH_SHAPES_H
#include "model/model.h"
#include "tests/bench/bench.h"
#include "util/fs.h"

static const struct shape {
    const char *name, *config;
} shapes[] = {
    {"smollm2",
     "{\"model_type\": \"llama\", \"hidden_size\": 576, \"intermediate_size\": 1536, \"num_hidden_layers\": 30,"
     " \"num_attention_heads\": 9, \"num_key_value_heads\": 3, \"vocab_size\": 49152, \"tie_word_embeddings\": true,"
     " \"max_position_embeddings\": 8192, \"rope_theta\": 100000, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\","
     " \"initializer_range\": 0.02}"},
    {"qwen3-0.6b-4l",
     "{\"model_type\": \"qwen3\", \"hidden_size\": 1024, \"intermediate_size\": 3072, \"num_hidden_layers\": 4,"
     " \"num_attention_heads\": 16, \"num_key_value_heads\": 8, \"head_dim\": 128, \"vocab_size\": 32768,"
     " \"tie_word_embeddings\": true, \"max_position_embeddings\": 40960, \"rope_theta\": 1000000,"
     " \"rms_norm_eps\": 1e-6, \"hidden_act\": \"silu\", \"initializer_range\": 0.02}"},
    {"qwen3-8b-1l",
     "{\"model_type\": \"qwen3\", \"hidden_size\": 4096, \"intermediate_size\": 12288, \"num_hidden_layers\": 1,"
     " \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"head_dim\": 128, \"vocab_size\": 1024,"
     " \"tie_word_embeddings\": true, \"max_position_embeddings\": 40960, \"rope_theta\": 1000000,"
     " \"rms_norm_eps\": 1e-6, \"hidden_act\": \"silu\", \"initializer_range\": 0.02}"},
};

/* A random model of that shape, all of it trainable. */
static inline gr_status shape_open(gr_model **m, const gr_ops *ops, const char *name)
{
    gr_status   st = GR_OK;
    const char *dir = getenv("GR_BENCH_DIR"), *config = NULL;
    char        path[GR_PATH_MAX];

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(shapes[i].name, name)) config = shapes[i].config;
    GR_CHECK(config, GR_ERR_ARG, "no such shape: %s", name);
    GR_TRY(gr_path(path, "%s/%s.json", dir ? dir : ".", name));
    GR_TRY(gr_write_file(path, config, strlen(config)));
    GR_TRY(gr_model_create(m, NULL, ops, path, "", "*", bench_seed()));
out:
    return st;
}
#endif
