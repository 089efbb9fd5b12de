/* config.json, and patterns: what is read, and what is refused with the member's name. */
/*TEST
np: 1
timeout: 30
*/
#include "config/options.h"
#include "model/pattern.h"
#include "model/spec.h"
#include "tests/check.h"
#include <string.h>

#define LLAMA                                                                                                          \
    "\"model_type\": \"llama\", \"vocab_size\": 100, \"num_hidden_layers\": 3, \"hidden_size\": 64,"                   \
    "\"intermediate_size\": 96, \"num_attention_heads\": 4, \"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5," \
    "\"hidden_act\": \"silu\""

static gr_status parse(const char *more, gr_model_spec *spec)
{
    char text[2048];

    snprintf(text, sizeof text, "{" LLAMA "%s%s}", *more ? ", " : "", more);
    return gr_model_spec_parse(spec, text, "config.json");
}

static void check_spec(void)
{
    static const char *const refused[] = {
        "\"surprise\": 1",
        "\"attention_bias\": true",
        "\"mlp_bias\": true",
        "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}",
        "\"rope_scaling\": 4",
        "\"rope_parameters\": {\"rope_type\": \"yarn\"}",
        "\"rope_parameters\": {\"rope_theta\": 1e4, \"beta\": 1}",
        "\"rope_interleaved\": true",
        "\"sliding_window\": 4096",
        "\"use_sliding_window\": true",
        "\"quantization_config\": {}",
        "\"num_key_value_heads\": 3",
        "\"head_dim\": 15",
        "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
        "\"tie_word_embeddings\": 1",
        "\"rope_theta\": -1",
        "\"graft\": {\"conv_width\": 9}",
        "\"graft\": {\"conv_width\": 4.0}",
        "\"graft\": {\"conv_width\": \"4\"}",
        "\"graft\": {\"gdn_neg_eigval\": 1}",
        "\"graft\": {\"width\": 4}",
        "\"graft\": [4]",
    };
    gr_model_spec s;
    gr_cfg_mixer  options = gr_options_default();
    char         *text = NULL;

    CHECK(parse("", &s) == GR_OK && s.n_kv_head == 4 && s.head_dim == 16 && !s.tied && !s.qk_norm &&
              s.rope_theta == 1e4 && s.mixer.conv_width == 4 && s.mixer.chunk == 64,
          "defaults");
    CHECK(parse("\"num_key_value_heads\": 2, \"head_dim\": 32, \"rope_theta\": 5e5, \"tie_word_embeddings\": true",
                &s) == GR_OK &&
              s.n_kv_head == 2 && s.head_dim == 32 && s.rope_theta == 5e5 && s.tied,
          "what is given");
    CHECK(parse("\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7e4}, \"rope_scaling\": null, "
                "\"use_cache\": true",
                &s) == GR_OK &&
              s.rope_theta == 7e4,
          "rope_parameters");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK(parse(refused[i], &s) == GR_ERR_INPUT, "accepted: %s", refused[i]);
    CHECK(gr_model_spec_parse(&s, "{\"model_type\": \"gpt2\"}", "x") == GR_ERR_INPUT, "another family");
    CHECK(gr_model_spec_parse(&s, "[]", "x") == GR_ERR_INPUT, "no object");

    /* what convert and extend leave behind is read back */
    options.conv_width = 3, options.chunk = 32, options.gdn_neg_eigval = true;
    CHECK(gr_model_spec_options("{" LLAMA "}", &options, &text) == GR_OK &&
              gr_model_spec_parse(&s, text, "x") == GR_OK && s.mixer.conv_width == 3 && s.mixer.chunk == 32 &&
              s.mixer.gdn_neg_eigval,
          "options");
    CHECK(!strcmp(gr_options_given(&options, "gdn"), "gdn_neg_eigval") && !gr_options_given(&options, "attn"), "given");
    gr_free(&text);
    CHECK(gr_model_spec_extend("{" LLAMA ", \"rope_parameters\": {\"rope_theta\": 1e4, \"rope_type\": \"default\"}}",
                               4e4, 512, &text) == GR_OK &&
              gr_model_spec_parse(&s, text, "x") == GR_OK && s.rope_theta == 4e4 && s.max_position == 512,
          "extended");
    gr_free(&text);
}

static void check_pattern(const char *text, const char *expected)
{
    const gr_mixer *mixer[6];
    char           *canonical = NULL;

    if (!expected) {
        CHECK(gr_pattern_parse(text, 6, mixer) == GR_ERR_CONFIG, "accepted: %s", text);
        return;
    }
    CHECK(gr_pattern_parse(text, 6, mixer) == GR_OK && gr_pattern_text(mixer, 6, &canonical) == GR_OK, "%s", text);
    CHECK(canonical && !strcmp(canonical, expected), "%s: %s, expected %s", text, canonical, expected);
    gr_free(&canonical);
}

int main(void)
{
    check_spec();
    check_pattern("attn,gdn,attn,gdn,attn,gdn", "attn,gdn,attn,gdn,attn,gdn");
    check_pattern("(attn,gdn)", "attn,gdn,attn,gdn,attn,gdn");
    check_pattern("(gdn:3,attn)", "gdn,gdn,gdn,attn,gdn,gdn");
    check_pattern("attn:2, gdn:4", "attn,attn,gdn,gdn,gdn,gdn");
    check_pattern("uniform(attn:1,gdn:3)", "gdn,attn,gdn,gdn,gdn,attn");
    check_pattern("uniform(attn, gdn)", "attn,gdn,attn,gdn,attn,gdn");
    check_pattern("uniform(attn:2,gdn:4)", "gdn,attn,gdn,gdn,attn,gdn");
    check_pattern("attn@0+3,gdn", "attn,gdn,gdn,attn,gdn,gdn");
    check_pattern("gdn, attn@1-3+5", "gdn,attn,attn,attn,gdn,attn");
    check_pattern("attn@0-2, gdn@3-5", "attn,attn,attn,gdn,gdn,gdn");
    check_pattern("attn@0+3", NULL);
    check_pattern("attn@0+3,gdn:4", NULL);
    check_pattern("attn@0+3,gdn,attn", NULL);
    check_pattern("attn@6,gdn", NULL);
    check_pattern("attn@2+1-3,gdn", NULL);
    check_pattern("attn@3-1,gdn", NULL);
    check_pattern("attn@,gdn", NULL);
    check_pattern("attn@1+,gdn", NULL);
    check_pattern("(attn@1,gdn)", NULL);
    check_pattern("uniform(attn:1,gdn:3", NULL);
    check_pattern("uniform()", NULL);
    check_pattern("attn:2,gdn:3", NULL);
    check_pattern("attn:2,gdn:5", NULL);
    check_pattern("attn:0,gdn:6", NULL);
    check_pattern("attn:-1,gdn:7", NULL);
    check_pattern("attn:99999999999999999999", NULL);
    check_pattern("(attn,gdn", NULL);
    check_pattern("attn,gdn)", NULL);
    check_pattern("(attn)x", NULL);
    check_pattern("()", NULL);
    check_pattern("", NULL);
    check_pattern("mamba7:6", NULL);
    return check_result();
}
