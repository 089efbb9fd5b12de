/* Which parameters a model has, in which order, under which names: HuggingFace's and hybrid-model-factory's. */
#include "model/model.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

gr_mixer_spec gr_mixer_spec_of(const gr_model_spec *spec)
{
    const gr_mixer *inner = gr_mixer_find(spec->mixer.bmojo_inner);

    return (gr_mixer_spec){.hidden = spec->hidden,
                           .n_head = spec->n_head,
                           .n_kv_head = spec->n_kv_head,
                           .head_dim = spec->head_dim,
                           .qk_norm = spec->qk_norm,
                           .norm_eps = (float)spec->norm_eps,
                           .conv_width = (int)spec->mixer.conv_width,
                           .chunk = (int)spec->mixer.chunk,
                           .neg_eigval = spec->mixer.gdn_neg_eigval,
                           .mamba2_state = (int)spec->mixer.mamba2_state,
                           .mamba2_llama = !strcmp(spec->mixer.mamba2_init, "mamba_in_the_llama"),
                           .gka_iterations = (int)spec->mixer.gka_iterations,
                           .gka_decode_iterations = (int)spec->mixer.gka_decode_iterations,
                           .gka_ridge = (float)spec->mixer.gka_ridge,
                           .gka_alpha = spec->mixer.gka_alpha,
                           .gka_v_conv = spec->mixer.gka_v_conv,
                           .gka_output_gate = spec->mixer.gka_output_gate,
                           .mimo_rank = (int)spec->mixer.mamba3_mimo_rank,
                           .rope_fraction = (float)spec->mixer.mamba3_rope_fraction,
                           .outproj_norm = spec->mixer.mamba3_outproj_norm,
                           .swa_window = (int)spec->mixer.swa_window,
                           .swa_sink = (int)spec->mixer.swa_sink,
                           .bmojo_window = (int)spec->mixer.bmojo_window,
                           .bmojo_tied = spec->mixer.bmojo_tied,
                           .bmojo_inner = inner ? inner->def : NULL,
                           .init_std = (float)spec->init_std};
}

gr_init_law gr_init_law_of(const gr_model_spec *spec)
{
    return (gr_init_law){.std = spec->init_std,
                         .a_min = spec->mixer.a_min,
                         .a_max = spec->mixer.a_max,
                         .dt_min = spec->mixer.dt_min,
                         .dt_max = spec->mixer.dt_max};
}

static gr_status add_matrix(gr_params *ps, const char *prefix, const char *name, int64_t out_dim, int64_t in_dim,
                            int block, int64_t *at)
{
    gr_param_spec w = {"", 2, {out_dim, in_dim, 1}, GR_INIT_NORMAL, true};

    snprintf(w.name, sizeof w.name, "%s", name);
    return gr_params_add(ps, &w, prefix, block, at);
}

static gr_status add_norm(gr_params *ps, const char *prefix, const char *name, int64_t n, int block, int64_t *at)
{
    gr_param_spec w = {"", 1, {n, 1, 1}, GR_INIT_ONE, false};

    snprintf(w.name, sizeof w.name, "%s", name);
    return gr_params_add(ps, &w, prefix, block, at);
}

static gr_status add_mixer(gr_params *ps, const gr_mixer_spec *spec, const char *layer, int i_block, gr_block *b)
{
    gr_status     st = GR_OK;
    gr_param_spec p[GR_MIXER_PARAMS];
    char          prefix[GR_NAME_MAX];

    GR_CHECK0(!b->mixer->def->contains || (spec->bmojo_inner && !spec->bmojo_inner->attends), GR_ERR_CONFIG,
              "layer %d: what '%s' contains must be one of the recurrent types of this build", i_block,
              b->mixer->def->name);
    snprintf(prefix, sizeof prefix, "%s%s.", layer, b->mixer->def->prefix);
    b->n_mixer = b->mixer->def->params(spec, p);
    b->mixer_first = ps->n;
    for (int j = 0; j < b->n_mixer; j++) GR_TRY(gr_params_add(ps, &p[j], prefix, i_block, NULL));
out:
    return st;
}

static gr_status add_block(gr_params *ps, const gr_model_spec *spec, gr_parts parts, int i, gr_block *b)
{
    gr_status           st = GR_OK;
    const gr_mixer_spec mixer_spec = gr_mixer_spec_of(spec);
    char                layer[64];

    snprintf(layer, sizeof layer, "model.layers.%d.", i);
    b->mixer_first = b->norm1 = b->norm2 = b->gate = b->up = b->down = -1;
    if (parts == GR_NEW_MIXERS) {
        if (b->mixer != gr_mixer_attention()) GR_TRY(add_mixer(ps, &mixer_spec, layer, i, b));
        goto out;
    }
    GR_TRY(add_norm(ps, layer, "input_layernorm.weight", spec->hidden, i, &b->norm1));
    GR_TRY(add_mixer(ps, &mixer_spec, layer, i, b));
    GR_TRY(add_norm(ps, layer, "post_attention_layernorm.weight", spec->hidden, i, &b->norm2));
    GR_TRY(add_matrix(ps, layer, "mlp.gate_proj.weight", spec->ffn, spec->hidden, i, &b->gate));
    GR_TRY(add_matrix(ps, layer, "mlp.up_proj.weight", spec->ffn, spec->hidden, i, &b->up));
    GR_TRY(add_matrix(ps, layer, "mlp.down_proj.weight", spec->hidden, spec->ffn, i, &b->down));
out:
    return st;
}

gr_status gr_model_layout(gr_params *ps, const gr_model_spec *spec, const gr_mixer *const *mixer, gr_parts parts,
                          gr_layout *at)
{
    gr_status st = GR_OK;
    gr_layout l = {.embed = -1, .norm = -1, .head = -1};

    GR_TRY(gr_alloc(&l.block, (uint64_t)spec->n_layer, sizeof *l.block, "block list"));
    if (parts == GR_WHOLE)
        GR_TRY(add_matrix(ps, "", "model.embed_tokens.weight", spec->vocab, spec->hidden, -1, &l.embed));
    for (int i = 0; i < spec->n_layer; i++) {
        l.block[i].mixer = mixer[i];
        GR_TRY(add_block(ps, spec, parts, i, &l.block[i]));
    }
    if (parts == GR_WHOLE) {
        GR_TRY(add_norm(ps, "", "model.norm.weight", spec->hidden, -1, &l.norm));
        l.head = l.embed;
        if (!spec->tied) GR_TRY(add_matrix(ps, "", "lm_head.weight", spec->vocab, spec->hidden, -1, &l.head));
    }
    if (at) {
        *at = l;
        l.block = NULL;
    }
out:
    gr_free(&l.block);
    return st;
}
