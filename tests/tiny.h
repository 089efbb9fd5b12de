/** @file tiny.h  A model and a corpus small enough for any test, made on disk from nothing. */
#ifndef GR_TESTS_TINY_H
#define GR_TESTS_TINY_H
#include "config/config.h"
#include "data/loader.h"
#include "model/model.h"
#include "store/shards.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/rng.h"
#include <stdlib.h>
#include <string.h>

enum { TINY_VOCAB = 61, TINY_LAYERS = 4 };

static const char tiny_qwen3[] =
    "{\"model_type\": \"qwen3\", \"vocab_size\": 61, \"num_hidden_layers\": 4, \"hidden_size\": 32,"
    "\"intermediate_size\": 48, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8,"
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000, \"hidden_act\": \"silu\","
    "\"tie_word_embeddings\": true, \"initializer_range\": 0.08}";

static const char tiny_llama[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 61, \"num_hidden_layers\": 4, \"hidden_size\": 32,"
    "\"intermediate_size\": 48, \"num_attention_heads\": 4, \"num_key_value_heads\": 4,"
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000, \"hidden_act\": \"silu\","
    "\"tie_word_embeddings\": false, \"initializer_range\": 0.08}";

/** Scratch directory of this test run (tests/run.sh). */
static inline const char *tiny_dir(void)
{
    const char *dir = getenv("GR_TEST_DIR");

    return dir ? dir : "/tmp";
}

/** A file of text below the scratch directory; `path` gets its name. [rank 0] */
static inline gr_status tiny_write(char path[GR_PATH_MAX], const char *name, const char *text)
{
    gr_status st = GR_OK;

    GR_TRY(gr_path(path, "%s/%s", tiny_dir(), name));
    GR_TRY(gr_write_file(path, text, strlen(text)));
out:
    return st;
}

/** A corpus of n tokens in documents of 1 to 40 tokens, in two shards. The next token is mostly (3 t + 7) mod V: there
 * is something to learn. [rank 0] */
static inline gr_status tiny_corpus(char dir[GR_PATH_MAX], const char *name, int64_t n, uint64_t seed)
{
    gr_status     st = GR_OK;
    gr_corpus     corpus = {.vocab_size = TINY_VOCAB, .tokenizer = "0123456789abcdef", .eos = 0};
    gr_shard_info info[2];
    uint32_t     *token = NULL;
    uint8_t      *mask = NULL;
    int64_t      *offset = NULL, n_doc = 0;

    GR_TRY(gr_path(dir, "%s/%s", tiny_dir(), name));
    GR_TRY(gr_mkdirs(dir));
    GR_TRY(gr_alloc(&token, (uint64_t)n, sizeof *token, "tokens"));
    GR_TRY(gr_alloc(&mask, (uint64_t)n, 1, "mask"));
    GR_TRY(gr_alloc(&offset, (uint64_t)n + 1, sizeof *offset, "documents"));
    for (int s = 0; s < 2; s++) {
        n_doc = 0;
        for (int64_t i = 0; i < n; n_doc++) {
            int64_t len = 1 + (int64_t)(40 * gr_uniform(seed, 1 + (uint64_t)s, (uint64_t)i));
            if (len > n - i) len = n - i;
            offset[n_doc] = i;
            for (int64_t j = 0; j < len; j++, i++) {
                const float u = gr_uniform(seed, 3 + (uint64_t)s, (uint64_t)i),
                            v = gr_uniform(seed, 5 + (uint64_t)s, (uint64_t)i);
                token[i] = j && u < 0.8f ? (3 * token[i - 1] + 7) % TINY_VOCAB : (uint32_t)(TINY_VOCAB * v);
                mask[i] = v > 0.03f; /* a few tokens are not to be learnt */
            }
        }
        offset[n_doc] = n;
        const gr_shard shard = {
            .source = "", .tokens = token, .loss_mask = mask, .doc_offsets = offset, .n_token = n, .n_doc = n_doc};
        GR_TRY(gr_shard_write(dir, s, &corpus, &shard, "test", &info[s]));
    }
    GR_TRY(gr_shards_publish(dir, &corpus, info, 2, "test"));
out:
    gr_free(&offset);
    gr_free(&mask);
    gr_free(&token);
    return st;
}
#endif
