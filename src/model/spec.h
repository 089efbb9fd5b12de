/** @file spec.h  The shape of a model, read from a HuggingFace config.json.  [local]
 *
 * Families: Llama and Qwen3, dense. Every member of config.json is either honoured here, or on a list of members known
 * not to change the computation, or an error: nothing is ignored in silence.
 */
#ifndef GR_MODEL_SPEC_H
#define GR_MODEL_SPEC_H
#include "config/config.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_model_spec {
    const char  *family; /**< "llama" or "qwen3"; static string                             */
    int64_t      vocab;  /**< rows of the embedding                                         */
    int          n_layer, hidden, n_head, n_kv_head, head_dim, ffn;
    int64_t      max_position; /**< longest context it was trained for                            */
    double       norm_eps;
    double       rope_theta;
    double       init_std; /**< initializer_range                                             */
    bool         tied;     /**< the head is the embedding                                     */
    bool         qk_norm;  /**< q and k are normalised per head before RoPE (qwen3)           */
    gr_cfg_mixer mixer;    /**< options of its new mixers (kernels/mixer.h)                       */
} gr_model_spec;

/** Parse and check. `name` (a path) leads the messages. GR_ERR_INPUT. */
gr_status gr_model_spec_parse(gr_model_spec *spec, const char *config_json, const char *name);

/** config.json with the options of its new mixers, as member "graft" (counted memory): what convert leaves behind. */
gr_status gr_model_spec_options(const char *config_json, const gr_cfg_mixer *options, char **out);

/** config.json with another RoPE base and maximal position (counted memory): what extend leaves behind. */
gr_status gr_model_spec_extend(const char *config_json, double rope_theta, int64_t max_position, char **out);

GR_C_END
#endif
