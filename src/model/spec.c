#include "model/spec.h"
#include "config/options.h"
#include "util/json.h"
#include <math.h>
#include <string.h>

/* Members that do not change what the model computes from token ids. */
static const char *const harmless[] = {
    "architectures",        "bos_token_id",
    "eos_token_id",         "pad_token_id",
    "torch_dtype",          "dtype",
    "transformers_version", "use_cache",
    "max_window_layers",    "_name_or_path",
    "name_or_path",         "attn_implementation",
    "_attn_implementation", "output_hidden_states",
    "output_attentions",    "return_dict",
    "model_max_length",     "is_llama_config",
};

/* Members that are fine with exactly one value: the one that means "not used". */
static const struct {
    const char *key;
    enum { MUST_BE_FALSE, MUST_BE_ZERO, MUST_BE_NULL, MUST_BE_ONE } rule;
} neutral[] = {
    {"attention_bias", MUST_BE_FALSE},     {"mlp_bias", MUST_BE_FALSE},         {"use_sliding_window", MUST_BE_FALSE},
    {"sliding_window", MUST_BE_NULL},      {"attention_dropout", MUST_BE_ZERO}, {"pretraining_tp", MUST_BE_ONE},
    {"quantization_config", MUST_BE_NULL}, {"hidden_dropout", MUST_BE_ZERO},    {"rope_scaling", MUST_BE_NULL},
    {"rope_interleaved", MUST_BE_FALSE},
};

static bool is_neutral(const json_t *v, int rule)
{
    switch (rule) {
    case MUST_BE_FALSE: return json_is_false(v) || json_is_null(v);
    case MUST_BE_ZERO: return json_is_number(v) && json_number_value(v) == 0;
    case MUST_BE_ONE: return json_is_number(v) && json_number_value(v) == 1;
    default: return json_is_null(v);
    }
}

/* rope_scaling and rope_parameters: {"rope_type": "default", "rope_theta": x} is the plain rotation under a longer
 * name. */
static gr_status read_rope(gr_model_spec *spec, const json_t *v, const char *key, const char *name)
{
    gr_status     st = GR_OK;
    const char   *inner;
    const json_t *member;

    GR_CHECK0(json_is_object(v), GR_ERR_INPUT, "%s: %s: expected an object", name, key);
    json_object_foreach((json_t *)v, inner, member)
    {
        if (!strcmp(inner, "rope_type") || !strcmp(inner, "type"))
            GR_CHECK0(json_is_string(member) && !strcmp(json_string_value(member), "default"), GR_ERR_INPUT,
                      "%s: %s.%s = %s: only \"default\" is supported", name, key, inner,
                      json_is_string(member) ? json_string_value(member) : "(not a string)");
        else if (!strcmp(inner, "rope_theta") && json_is_number(member))
            spec->rope_theta = json_number_value(member);
        else
            GR_FAIL0(GR_ERR_INPUT, "%s: %s.%s: Graft does not honour this member", name, key, inner);
    }
out:
    return st;
}

static gr_status check_member(gr_model_spec *spec, const char *key, const json_t *v, const char *name)
{
    static const char *const read_elsewhere[] = {
        "model_type",
        "vocab_size",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "intermediate_size",
        "max_position_embeddings",
        "rope_theta",
        "tie_word_embeddings",
        "hidden_act",
        "initializer_range",
        "graft",
    };
    gr_status st = GR_OK;

    for (size_t i = 0; i < sizeof read_elsewhere / sizeof *read_elsewhere; i++)
        if (!strcmp(key, read_elsewhere[i])) goto out;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (!strcmp(key, harmless[i])) goto out;
    if ((!strcmp(key, "rope_scaling") && !json_is_null(v)) || !strcmp(key, "rope_parameters")) {
        GR_TRY(read_rope(spec, v, key, name));
        goto out;
    }
    if (!strcmp(key, "layer_types")) {
        size_t        i;
        const json_t *type;
        GR_CHECK0(json_is_array(v), GR_ERR_INPUT, "%s: layer_types: expected an array", name);
        json_array_foreach(v, i, type)
            GR_CHECK0(json_is_string(type) && !strcmp(json_string_value(type), "full_attention"), GR_ERR_INPUT,
                      "%s: layer_types[%zu]: only \"full_attention\" is supported", name, i);
        goto out;
    }
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++)
        if (!strcmp(key, neutral[i].key)) {
            GR_CHECK0(is_neutral(v, neutral[i].rule), GR_ERR_INPUT,
                      "%s: %s is set: Graft does not honour it for this family", name, key);
            goto out;
        }
    GR_FAIL0(GR_ERR_INPUT, "%s: unknown member \"%s\": Graft would ignore it, and refuses to", name, key);
out:
    return st;
}

static gr_status read_int(const json_t *o, const char *name, const char *key, int64_t hi, int *v)
{
    int64_t   x = 0;
    gr_status st = gr_json_get_int(o, name, key, 1, hi, &x);

    *v = (int)x;
    return st;
}

gr_status gr_model_spec_parse(gr_model_spec *spec, const char *config_json, const char *name)
{
    gr_status     st = GR_OK;
    json_t       *o = NULL;
    const json_t *v = NULL;
    const char   *type = NULL, *act = NULL, *key = NULL;
    gr_model_spec s = {.rope_theta = 10000.0, .init_std = 0.02};

    GR_TRY(gr_json_parse(config_json, strlen(config_json), name, &o));
    GR_CHECK0(json_is_object(o), GR_ERR_INPUT, "%s: expected a JSON object", name);
    GR_TRY(gr_json_get_str(o, name, "model_type", &type));
    if (!strcmp(type, "llama"))
        s.family = "llama";
    else if (!strcmp(type, "qwen3"))
        s.family = "qwen3";
    else
        GR_FAIL0(GR_ERR_INPUT, "%s: model_type \"%s\": supported are llama and qwen3", name, type);
    s.qk_norm = !strcmp(s.family, "qwen3");

    GR_TRY(gr_json_get_int(o, name, "vocab_size", 2, 1 << 24, &s.vocab));
    GR_TRY(read_int(o, name, "num_hidden_layers", 4096, &s.n_layer));
    GR_TRY(read_int(o, name, "hidden_size", 1 << 20, &s.hidden));
    GR_TRY(read_int(o, name, "intermediate_size", 1 << 22, &s.ffn));
    GR_TRY(read_int(o, name, "num_attention_heads", 1 << 14, &s.n_head));
    s.n_kv_head = s.n_head;
    if (json_object_get(o, "num_key_value_heads"))
        GR_TRY(read_int(o, name, "num_key_value_heads", 1 << 14, &s.n_kv_head));
    GR_CHECK0(s.n_head % s.n_kv_head == 0, GR_ERR_INPUT, "%s: %d attention heads are no multiple of %d key/value heads",
              name, s.n_head, s.n_kv_head);
    v = json_object_get(o, "head_dim");
    if (v && !json_is_null(v)) {
        GR_TRY(read_int(o, name, "head_dim", 4096, &s.head_dim));
    } else {
        GR_CHECK0(s.hidden % s.n_head == 0, GR_ERR_INPUT,
                  "%s: hidden_size %d is no multiple of %d heads, and head_dim is absent", name, s.hidden, s.n_head);
        s.head_dim = s.hidden / s.n_head;
    }
    GR_CHECK0(s.head_dim % 2 == 0, GR_ERR_INPUT, "%s: head_dim %d is odd: RoPE needs pairs", name, s.head_dim);
    GR_TRY(gr_json_get_int(o, name, "max_position_embeddings", 1, INT64_C(1) << 40, &s.max_position));
    GR_TRY(gr_json_get_num(o, name, "rms_norm_eps", &s.norm_eps));
    if (json_object_get(o, "rope_theta")) GR_TRY(gr_json_get_num(o, name, "rope_theta", &s.rope_theta));
    if (json_object_get(o, "initializer_range")) GR_TRY(gr_json_get_num(o, name, "initializer_range", &s.init_std));
    GR_TRY(gr_json_get_str(o, name, "hidden_act", &act));
    GR_CHECK0(!strcmp(act, "silu"), GR_ERR_INPUT, "%s: hidden_act \"%s\": only \"silu\" is supported", name, act);
    v = json_object_get(o, "tie_word_embeddings");
    GR_CHECK0(!v || json_is_boolean(v), GR_ERR_INPUT, "%s: tie_word_embeddings: expected true or false", name);
    s.tied = json_is_true(v);
    s.mixer = gr_options_default();
    if (json_object_get(o, "graft")) GR_TRY(gr_options_parse(&s.mixer, json_object_get(o, "graft"), name));
    json_object_foreach(o, key, v) GR_TRY(check_member(&s, key, v, name));
    GR_CHECK0(s.rope_theta > 1 && s.rope_theta < 1e12 && s.norm_eps > 0 && s.norm_eps < 1 && s.init_std > 0 &&
                  s.init_std < 10,
              GR_ERR_INPUT, "%s: rope_theta %g, rms_norm_eps %g or initializer_range %g is out of any reasonable range",
              name, s.rope_theta, s.norm_eps, s.init_std);
    *spec = s;
out:
    json_decref(o);
    return st;
}

gr_status gr_model_spec_options(const char *config_json, const gr_cfg_mixer *options, char **out)
{
    gr_status st = GR_OK;
    json_t   *o = NULL, *graft = NULL;

    GR_TRY(gr_json_parse(config_json, strlen(config_json), "config_json", &o));
    GR_TRY(gr_options_json(options, &graft));
    json_object_set(o, "graft", graft);
    GR_TRY(gr_json_dump(o, 2, out));
out:
    json_decref(graft);
    json_decref(o);
    return st;
}

gr_status gr_model_spec_extend(const char *config_json, double rope_theta, int64_t max_position, char **out)
{
    gr_status st = GR_OK;
    json_t   *o = NULL, *rope = NULL;

    GR_TRY(gr_json_parse(config_json, strlen(config_json), "config_json", &o));
    rope = json_object_get(o, "rope_parameters");
    json_object_set_new(rope ? rope : o, "rope_theta", json_real(rope_theta));
    json_object_set_new(o, "max_position_embeddings", json_integer(max_position));
    GR_TRY(gr_json_dump(o, 2, out));
out:
    json_decref(o);
    return st;
}
