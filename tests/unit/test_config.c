/* Configurations that must be refused, each with the message that helps; inheritance, overrides, ${NAME}; and what is
 * printed reads back to the same configuration. */
/*TEST
np: 1
timeout: 20
*/
#include "config/config.h"
#include "tests/check.h"
#include "util/fs.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[GR_PATH_MAX]; /* of this test's files */

static void put_bytes(const char *name, const char *text, uint64_t n)
{
    char  path[GR_PATH_MAX];
    FILE *f = NULL;

    if (gr_path(path, "%s/%s", dir, name) == GR_OK)
        f = fopen(path, "w"); /* gr_write_file waits for the disk each time */
    CHECK(f && fwrite(text, 1, n, f) == n && !fclose(f), "cannot write %s", name);
}

static void put(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

enum { MAX_ARGS = 8 };

/* gr_config_open as graft-`program` would, with paths below dir; what it logs goes to `said`. */
static gr_status open_config(gr_config **cfg, gr_cli *what, const char *program, char *said, size_t size, int n,
                             const char *const *args)
{
    char      path[MAX_ARGS][GR_PATH_MAX], *argv[MAX_ARGS + 2] = {(char *)(uintptr_t) "graft"};
    const int keep = dup(STDERR_FILENO);
    FILE     *log = tmpfile();
    size_t    got;
    gr_status st;

    for (int i = 0; i < n; i++) {
        const size_t len = strlen(args[i]);
        const int    file = len > 5 && !strcmp(args[i] + len - 5, ".yaml") && !strchr(args[i], '=');
        CHECK(gr_path(path[i], "%s%s%s", file ? dir : "", file ? "/" : "", args[i]) == GR_OK, "path");
        argv[i + 1] = path[i];
    }
    fflush(stderr);
    dup2(fileno(log), STDERR_FILENO);
    st = gr_config_open(cfg, what, program, n + 1, argv);
    fflush(stderr);
    dup2(keep, STDERR_FILENO);
    close(keep);
    rewind(log);
    got = fread(said, 1, size - 1, log);
    said[got] = 0;
    fclose(log);
    return st;
}

/* ---- what must be refused --------------------------------------------------------------------------------------- */

typedef struct hostile {
    const char *program, *yaml, *arg; /* yaml becomes x.yaml; NULL: no file */
    const char *says;                 /* a part of the message              */
} hostile;

static const hostile refused[] = {
    /* names */
    {"export", "run:\n  out: a\noptin:\n  lr: 1\n", NULL, "x.yaml:3: unknown section 'optin' (graft-export uses: run"},
    {"align", "run:\n  out: a\noptin:\n  lr: 1\n", NULL, "x.yaml:3: unknown section 'optin' (did you mean 'optim'?)"},
    {"align", "optim:\n  lrr: 1\n", NULL, "x.yaml:2: optim.lrr: unknown key (did you mean optim.lr?)"},
    {"align", "optim:\n  weight_decya: 1\n", NULL, "did you mean optim.weight_decay?"},
    {"align", "train:\n  lr: 1\n", NULL, "x.yaml:2: train.lr: unknown key (did you mean optim.lr?)"},
    {"align", "run:\n  pattern: 1\n", NULL, "run.pattern: unknown key (--help"},
    {"align", "train:\n  flux_capacitor: 1\n", NULL, "train.flux_capacitor: unknown key (--help"},
    {"convert", "\n\nlogits:\n  k: 3\n", NULL, "x.yaml:3: section 'logits' is not used by graft-convert"},
    {"align", "Optim:\n  lr: 1\n", NULL, "unknown section 'Optim' (did you mean 'optim'?)"},
    {"align", "? [a, b]\n: c\n", NULL, "x.yaml:1: found a list, expected the name of a section"},
    {"align", "optim:\n  {a: b}: c\n", NULL, "x.yaml:2: found a mapping, expected the name of a key"},
    {"align", "optim: {lr: 1}\nrun: {}\noptim: {}\n", NULL, "x.yaml:3: section 'optim': given twice (first on line 1)"},
    {"align", "optim:\n  lr: 1\n  clip: 1\n  lr: 1\n", NULL, "x.yaml:4: optim.lr: given twice (first on line 2)"},
    {"align", "\"op\\0tim\": {}\n", NULL, "a NUL character"},
    /* numbers */
    {"align", "train:\n  batch: -3\n", NULL, "x.yaml:2: train.batch = -3: below the least value 1 [sequences]"},
    {"align", "train:\n  batch: 16777217\n", NULL, "above the greatest value 16777216 [sequences]"},
    {"align", "train:\n  batch: 99999999999999999999\n", NULL, "above the greatest value 16777216"},
    {"align", "train:\n  seed: 9223372036854775808\n", NULL,
     "train.seed = 9223372036854775808: above the greatest value"},
    {"align", "train:\n  seed: -99999999999999999999\n", NULL, "below the least value 0"},
    {"align", "train:\n  batch: 1.0\n", NULL, "train.batch = 1.0: expected an integer"},
    {"align", "train:\n  batch: 1e3\n", NULL, "expected an integer"},
    {"align", "train:\n  batch: 0x10\n", NULL, "expected an integer"},
    {"align", "train:\n  batch: 010\n", NULL, "expected an integer"},
    {"align", "train:\n  batch: 1_000\n", NULL, "expected an integer"},
    {"align", "train:\n  batch: 8 sequences\n", NULL, "expected an integer"},
    {"align", "train:\n  batch: \"8\"\n", NULL, "found a quoted string, expected an integer"},
    {"align", "train:\n  batch: [8]\n", NULL, "x.yaml:2: train.batch: found a list, expected an integer"},
    {"align", "train:\n  batch: {a: 8}\n", NULL, "train.batch: found a mapping, expected an integer"},
    {"align", "train:\n  batch:\n", NULL, "found nothing, expected an integer"},
    {"align", "optim:\n  lr: abc\n", NULL, "optim.lr = abc: expected a number"},
    {"align", "optim:\n  lr: .nan\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: nan\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: inf\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: 0x1p3\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: 1e\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: .\n", NULL, "expected a number"},
    {"align", "optim:\n  lr: 1e999\n", NULL, "above the greatest value 1000"},
    {"align", "optim:\n  lr: -1e-9\n", NULL, "below the least value 0"},
    {"align", "optim:\n  eps: 1e-400\n", NULL, "below the least value 1e-30"},
    /* other types */
    {"convert", "mixer:\n  gdn_neg_eigval: yes\n", NULL, "mixer.gdn_neg_eigval = yes: expected true or false"},
    {"convert", "mixer:\n  gdn_neg_eigval: True\n", NULL, "expected true or false"},
    {"convert", "mixer:\n  gdn_neg_eigval: 'true'\n", NULL, "found a quoted string, expected true or false"},
    {"align", "run:\n  backend: gpu\n", NULL, "run.backend = gpu: expected one of cpu|cuda"},
    {"align", "run:\n  backend: cp\n", NULL, "expected one of cpu|cuda"},
    {"align", "run:\n  backend: \"cpu|cuda\"\n", NULL, "expected one of cpu|cuda"},
    {"align", "run:\n  out: ~\n", NULL, "run.out = ~: found nothing, expected a string"},
    {"align", "run:\n  out: \"\"\n", NULL, "run.out = : must not be empty"},
    {"align", "run:\n  out: [a, b]\n", NULL, "run.out: found a list, expected a string"},
    {"align", "run:\n  out: \"a\\0b\"\n", NULL, "a NUL character"},
    {"align", "run:\n  out: a${GR_NO_SUCH_VARIABLE}\n", NULL, "the environment has no GR_NO_SUCH_VARIABLE"},
    {"align", "run:\n  out: \"${GR_NO_SUCH_VARIABLE\"\n", NULL, "${ without }"},
    {"align", "run:\n  out: \"${}\"\n", NULL, "not a variable"},
    {"tokenize", "tokenize:\n  inputs: [a, [b]]\n", NULL, "x.yaml:2: tokenize.inputs: found a list, expected a string"},
    {"tokenize", "tokenize:\n  inputs:\n    - a\n    - ''\n", NULL, "x.yaml:4: tokenize.inputs = : must not be empty"},
    {"tokenize", "tokenize:\n  inputs: {a: b}\n", NULL, "tokenize.inputs: found a mapping"},
    {"tokenize", "run: {out: a}\ntokenize: {inputs: [], tokenizer: t}\n", NULL, "tokenize.inputs must be given"},
    /* shape of the file */
    {"align", "- run\n", NULL, "x.yaml:1: found a list, expected sections"},
    {"align", "hello\n", NULL, "x.yaml:1: found a single value, expected sections"},
    {"align", "run: 3\n", NULL, "section 'run': found a single value, expected keys"},
    {"align", "run: [a]\n", NULL, "section 'run': found a list, expected keys"},
    {"align", "run: {out: a}\n---\nrun: {out: b}\n", NULL, "x.yaml:2: a second document"},
    {"align", "run:\n  out: &a x\n", NULL, "x.yaml:2: anchors"},
    {"align", "run: &r\n  out: x\n", NULL, "x.yaml:1: anchors"},
    {"align", "run:\n  out: *a\n", NULL, "x.yaml:2: anchors"},
    {"align", "run:\n  out: !!str x\n", NULL, "x.yaml:2: anchors (&), aliases (*) and tags (!)"},
    {"align", "run: !!python/object:os.system {out: x}\n", NULL, "tags (!)"},
    {"align", "run:\n  <<: {out: x}\n", NULL, "run.<<: unknown key"},
    /* not YAML */
    {"align", "run: {out: a\n", NULL, "x.yaml:2:1: did not find expected ',' or '}'"},
    {"align", "run:\n\tout: a\n", NULL, "x.yaml:2:1: found character that cannot start any token"},
    {"align", "run:\n  out: \"a\n", NULL, "found unexpected end of stream"},
    {"align", "run:\n  out: a\n   seed: 1\n", NULL, "x.yaml:3:8: mapping values are not allowed"},
    {"align", "run:\n  out: a\xff\n", NULL, "x.yaml:2: byte 13: invalid leading UTF-8 octet"},
    {"align", "run:\n  out: a\x01\n", NULL, "control characters are not allowed"},
    {"align", "%YAML 7.3\n---\nrun: {}\n", NULL, "incompatible YAML document"},
    /* what is left out */
    {"align", "", NULL, "x.yaml: run.out must be given: where the result goes"},
    {"align", "# nothing\n", NULL, "data.shards must be given: directory written by graft-tokenize"},
    {"align", NULL, "run.out=a", "command line: data.shards must be given"},
    {"verify", NULL, NULL, "nothing to do: graft-verify PATH"},
    {"align", NULL, NULL, "no configuration: graft-align CONFIG.yaml"},
    /* bases */
    {"align", "base: nowhere.yaml\n", NULL, "x.yaml:1: base: "},
    {"align", "base: nowhere.yaml\n", NULL, "nowhere.yaml does not exist"},
    {"align", "run: {out: a}\nbase: a.yaml\n", NULL, "x.yaml:2: base: must come first"},
    {"align", "base: [a.yaml]\n", NULL, "x.yaml:1: found a list, expected the path of the base"},
    {"align", "base:\n", NULL, "base: found nothing"},
    {"align", "base: x.yaml\n", NULL, "x.yaml:1: base: "},
    {"align", "base: ./../{dir}/x.yaml\n", NULL, "does not exist"},
    {"align", "base: cycle_a.yaml\n", NULL, "cycle_b.yaml:2: base: "},
    {"align", "base: cycle_a.yaml\n", NULL, "cycle_a.yaml inherits from itself"},
    {"align", "base: deep0.yaml\n", NULL, "more than 8 files deep"},
    {"align", "base: bad_base.yaml\n", NULL, "bad_base.yaml:2: optim.lr = fast: expected a number"},
    {"align", "base: bad_foreign.yaml\n", NULL, "bad_foreign.yaml:2: logits.kk: unknown key (did you mean logits.k?)"},
    /* arguments */
    {"align", "", "optim.lr=abc", "argument 'optim.lr=abc': expected a number"},
    {"align", "", "optim.lr=", "argument 'optim.lr=': expected a number"},
    {"align", "", "train.batch=0", "argument 'train.batch=0': below the least value 1 [sequences]"},
    {"align", "", "optim.lrr=1", "argument 'optim.lrr=1': optim.lrr: unknown key (did you mean optim.lr?)"},
    {"align", "", "lr=1", "argument 'lr=1': expected section.key=value"},
    {"align", "", ".=1", "unknown section ''"},
    {"align", "", "=", "expected section.key=value"},
    {"align", "", "logits.k=1", "argument 'logits.k=1': section 'logits' is not used by graft-align"},
    {"align", "", "run.out=", "argument 'run.out=': must not be empty"},
    {"align", "", "run.out=a\xff", "is not UTF-8"},
    {"align", "", "run.out=\xed\xa0\x80", "is not UTF-8"},
    {"align", "", "--helpp", "argument '--helpp': unknown option"},
    {"align", "", "-x", "argument '-x': unknown option"},
    {"align", "", "y.yaml", "a second configuration file"},
    {"tokenize", "", "tokenize.inputs=[a", "argument 'tokenize.inputs=[a'"},
    {"tokenize", "", "tokenize.inputs=[a]b", "argument 'tokenize.inputs=[a]b'"},
    {"tokenize", "", "tokenize.inputs=[a, &x b]", "anchors"},
    {"report", "run: {out: o}\n", "report.stages=", "argument 'report.stages=': must not be empty"},
};

static void refuse_hostile(void)
{
    static char said[1 << 16];

    put("cycle_a.yaml", "base: cycle_b.yaml\n");
    put("cycle_b.yaml", "# first\nbase: cycle_a.yaml\n");
    put("bad_base.yaml", "optim:\n  lr: fast\n");
    put("bad_foreign.yaml", "logits:\n  kk: 3\n");
    for (int i = 0; i < 9; i++) {
        char name[32], text[64];
        snprintf(name, sizeof name, "deep%d.yaml", i);
        snprintf(text, sizeof text, "base: deep%d.yaml\n", i + 1);
        put(name, text);
    }
    put("deep9.yaml", "");

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const hostile *h = &refused[i];
        const char    *args[2];
        gr_config     *cfg = NULL;
        gr_cli         what;
        int            n = 0;
        gr_status      st;

        if (h->yaml) put("x.yaml", h->yaml), args[n++] = "x.yaml";
        if (h->arg) args[n++] = h->arg;
        st = open_config(&cfg, &what, h->program, said, sizeof said, n, args);
        CHECK(st == GR_ERR_CONFIG && !cfg, "case %zu: status %s for\n%s%s", i, gr_status_name(st),
              h->yaml ? h->yaml : "", h->arg ? h->arg : "");
        CHECK(strstr(said, h->says), "case %zu: expected \"%s\" in\n%s", i, h->says, said);
        CHECK(strlen(said) < 2048, "case %zu: an endless message", i);
        gr_config_close(&cfg);
    }
}

/* Files no one writes by hand. */
static void refuse_large(void)
{
    static char       said[1 << 16], text[(1 << 20) + 1];
    const char *const args[] = {"x.yaml"};
    const char        fill[] = {'[', '{', '-', '?', '&', '"', '\'', '#', ' ', 'a', ':', '|'};
    gr_config        *cfg = NULL;
    gr_cli            what;
    gr_status         st;

    for (size_t i = 0; i < sizeof fill; i++) { /* each alone a valid size */
        memset(text, fill[i], sizeof text - 1);
        put_bytes("x.yaml", text, sizeof text - 1);
        st = open_config(&cfg, &what, "align", said, sizeof said, 1, args);
        CHECK(st == GR_ERR_CONFIG && !cfg, "1 MiB of %c: %s", fill[i], gr_status_name(st));
    }
    put_bytes("x.yaml", text, sizeof text);
    st = open_config(&cfg, &what, "align", said, sizeof said, 1, args);
    CHECK(st == GR_ERR_INPUT && strstr(said, "1048577 bytes"), "too large: %s", said);
    st = open_config(&cfg, &what, "align", said, sizeof said, 1, (const char *const[]){"missing.yaml"});
    CHECK(st == GR_ERR_INPUT && strstr(said, "missing.yaml: No such file"), "missing: %s", said);
    st = open_config(&cfg, &what, "align", said, sizeof said, 1, (const char *const[]){dir});
    CHECK(st == GR_ERR_INPUT && strstr(said, "not a regular file"), "a directory: %s", said);
}

/* Every prefix of a valid file, and every single byte of it changed: refused or accepted, never a crash or a leak. */
static void survive_damage(void)
{
    static const char whole[] = "# c\nbase: b.yaml\nrun: {out: \"a\\u00e9${HOME}\", threads: 3}\n"
                                "tokenize:\n  inputs:\n    - 'a'\n    - |\n      b\n  tokenizer: t\n";
    static char       said[1 << 16];
    const char *const args[] = {"x.yaml"};
    char              text[sizeof whole];
    const char        odd[] = {0, '\n', '"', '{', ']', ':', '&', '\t', '-', '\xc3'};
    gr_config        *cfg = NULL;
    gr_cli            what;
    int64_t           accepted = 0;

    setenv("HOME", "h", 1);
    put("b.yaml", "run:\n  threads: 1\n");
    for (size_t n = 0; n < sizeof whole; n++) {
        put_bytes("x.yaml", whole, n);
        accepted += open_config(&cfg, &what, "tokenize", said, sizeof said, 1, args) == GR_OK;
        gr_config_close(&cfg);
        for (size_t k = 0; n + 1 < sizeof whole && k < sizeof odd; k += 3) {
            memcpy(text, whole, sizeof whole);
            text[n] = odd[(n + k) % sizeof odd];
            put_bytes("x.yaml", text, sizeof whole - 1);
            accepted += open_config(&cfg, &what, "tokenize", said, sizeof said, 1, args) == GR_OK;
            gr_config_close(&cfg);
        }
    }
    CHECK(accepted > 0, "the whole file is refused: %s", said);
}

/* ---- what must be accepted -------------------------------------------------------------------------------------- */

static gr_config *accept(const char *program, int n, const char *const *args)
{
    static char said[1 << 16];
    gr_config  *cfg = NULL;
    gr_cli      what = GR_CLI_HELP;

    CHECK(open_config(&cfg, &what, program, said, sizeof said, n, args) == GR_OK, "graft-%s: %s", program, said);
    CHECK(what == GR_CLI_RUN && cfg, "graft-%s: not a run", program);
    if (!cfg) exit(1);
    return cfg;
}
#define ACCEPT(program, ...)                                                                                           \
    accept(program, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void inherit_and_override(void)
{
    gr_config *cfg;
    char       path[GR_PATH_MAX];

    CHECK(gr_path(path, "%s/sub", dir) == GR_OK && gr_mkdirs(path) == GR_OK, "mkdir");
    put("root.yaml", "data: {shards: s, context: 2}\noptim: {lr: 1, clip: 2, beta1: 0.5}\nlogits: {k: 7}\n");
    put("sub/mid.yaml", "base: ../root.yaml\noptim: {lr: 2, clip: 3}\n");
    put("top.yaml", "base: sub/mid.yaml # relative to this file\nrun: {out: o}\noptim: {lr: 3}\nschedule:\n");

    cfg = ACCEPT("extend", "top.yaml");
    CHECK(cfg->optim.lr == 3 && cfg->optim.clip == 3 && cfg->optim.beta1 == 0.5, "file over base over its base");
    CHECK(cfg->data.context == 2 && !strcmp(cfg->data.shards, "s") && !strcmp(cfg->run.out, "o"), "inherited");
    CHECK(cfg->optim.beta2 == 0.95 && cfg->optim.eps == 1e-8 && !strcmp(cfg->schedule.kind, "cosine"), "defaults");
    gr_config_close(&cfg);

    cfg = ACCEPT("extend", "optim.lr=4", "top.yaml", "optim.lr=+5.e-1", "data.context=3", "train.only=*.mixer.*,a=b");
    CHECK(cfg->optim.lr == 0.5, "the last argument wins: %g", cfg->optim.lr);
    CHECK(cfg->data.context == 3 && !strcmp(cfg->train.only, "*.mixer.*,a=b"), "arguments over files");
    gr_config_close(&cfg);

    cfg = ACCEPT("extend", "run.out=o", "data.shards=s", "train.only="); /* no file at all */
    CHECK(!strcmp(cfg->run.out, "o") && !strcmp(cfg->train.only, ""), "arguments only");
    gr_config_close(&cfg);

    put("top.yaml", "base: root.yaml\nrun: {out: o}\nlogits:\n"); /* another program uses what extend ignored */
    cfg = ACCEPT("teacher", "top.yaml", "model.weights=w");
    CHECK(cfg->logits.k == 7, "shared base");
    gr_config_close(&cfg);

    setenv("GR_TEST_BASE", dir, 1); /* an absolute path from the environment */
    put("top.yaml", "base: ${GR_TEST_BASE}/root.yaml\nrun: {out: o}\n");
    cfg = ACCEPT("extend", "top.yaml");
    CHECK(cfg->data.context == 2, "base from the environment");
    gr_config_close(&cfg);
}

static void expand_strings(void)
{
    gr_config *cfg;

    setenv("GR_A", "x y", 1);
    setenv("GR_EMPTY", "", 1);
    put("x.yaml", "run: {out: '${GR_A}/$5/$${GR_A}/${GR_EMPTY}${GR_A}$'}\n"
                  "tokenize: {inputs: ['${GR_A}1', 12, true], tokenizer: t, eos: \"\"}\n");
    cfg = ACCEPT("tokenize", "x.yaml");
    CHECK(!strcmp(cfg->run.out, "x y/$5/${GR_A}/x y$"), "expanded to %s", cfg->run.out);
    CHECK(cfg->tokenize.inputs.n == 3 && !strcmp(cfg->tokenize.inputs.v[0], "x y1") &&
              !strcmp(cfg->tokenize.inputs.v[1], "12") && !strcmp(cfg->tokenize.inputs.v[2], "true"),
          "list");
    CHECK(!strcmp(cfg->tokenize.eos, ""), "an empty string is not the default");
    gr_config_close(&cfg);

    cfg = ACCEPT("tokenize", "x.yaml", "tokenize.inputs=a, b");
    CHECK(cfg->tokenize.inputs.n == 1 && !strcmp(cfg->tokenize.inputs.v[0], "a, b"), "one string is a list of one");
    gr_config_close(&cfg);
    cfg = ACCEPT("tokenize", "x.yaml", "tokenize.inputs=[a, 'b c', '${GR_A}']");
    CHECK(cfg->tokenize.inputs.n == 3 && !strcmp(cfg->tokenize.inputs.v[1], "b c"), "a list as an argument");
    gr_config_close(&cfg);
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

static gr_config *parse(const char *program, const char *text)
{
    gr_config *cfg = NULL;

    CHECK(gr_config_from_text(&cfg, program, "printed", text, strlen(text)) == GR_OK, "graft-%s:\n%s", program, text);
    if (!cfg) exit(1);
    return cfg;
}

/* graft-verify's paths come from the file, or from plain arguments, which replace them; other programs take none. */
static void plain_arguments(void)
{
    gr_config *cfg = NULL;

    put("v.yaml", "verify: {paths: [x, y], deep: false}\n");
    cfg = ACCEPT("verify", "v.yaml");
    CHECK(cfg->verify.paths.n == 2 && !strcmp(cfg->verify.paths.v[1], "y") && !cfg->verify.deep, "from the file");
    gr_config_close(&cfg);
    cfg = ACCEPT("verify", "p", "v.yaml", "./q=r", "verify.all=true", "s.h5");
    CHECK(cfg->verify.paths.n == 3 && !strcmp(cfg->verify.paths.v[0], "p") &&
              !strcmp(cfg->verify.paths.v[1], "./q=r") && !strcmp(cfg->verify.paths.v[2], "s.h5"),
          "plain arguments");
    CHECK(cfg->verify.all && !cfg->verify.deep, "with keys between them");
    gr_config_close(&cfg);
}

/* A list that may be left out is empty then, and when it is written []; its elements may not be. */
static void optional_lists(void)
{
    gr_config *cfg = ACCEPT("report", "run.out=o", "report.models=[a, b]", "report.models=[]");
    char      *text = NULL, *help = NULL;

    CHECK(cfg->report.stages.n == 0 && cfg->report.models.n == 0, "%d stages", (int)cfg->report.stages.n);
    CHECK(gr_config_print(cfg, "report", &text) == GR_OK && gr_config_help("report", &help) == GR_OK, "print");
    CHECK(strstr(text, "\n  stages: []\n") && strstr(help, "list of strings; default []\n"), "%s\n%s", text, help);
    gr_config_close(&cfg);
    cfg = parse("report", text);
    CHECK(cfg->report.models.n == 0, "%d models", (int)cfg->report.models.n);
    gr_config_close(&cfg);
    gr_free(&text);
    gr_free(&help);
    CHECK(!strcmp(gr_config_key("align", "seed", 0), "train.seed") && !gr_config_key("align", "seed", 1), "a seed");
    CHECK(!gr_config_key("evaluate", "seed", 0) && !gr_config_key("nothing", "seed", 0), "no seed");
}

/* All strings, of all sections, odd. */
static const char shared[] = ""
#define GR_SECTION(section, doc)           #section ":\n"
#define GR_STR(section, key, preset, doc)  "  " #key ": '${GR_ODD}'\n"
#define GR_STRS(section, key, preset, doc) "  " #key ": [a, '${GR_ODD}', 'no', '1', ' ']\n"
#include "config/keys.def"
    ;

/* Print, parse, print: the same text, for every program. */
static void round_trips(void)
{
#define GR_PROGRAM(name, doc, sections) #name,
    static const char *const programs[] = {
#include "config/programs.def"
    };
#undef GR_PROGRAM
    static const char odd[] =
        "a\"\\\n\t\x01\x7f '#: - \xc3\xa9 \xc2\x85\xe2\x80\xa8\xef\xbb\xbf\xef\xbf\xbf\xf0\x9f\x98\x80 $${ ${ $$ ~";

    setenv("GR_ODD", odd, 1);
    put("shared.yaml", shared);
    put("all.yaml", "base: shared.yaml\nrun: {threads: 4096}\n");
    put("tools.yaml", "base: shared.yaml\n"); /* for programs without a section `run` */
    put("numbers.yaml",
        "base: all.yaml\n"
        "optim: {lr: 0.1, eps: 1.2345678901234567e-17, clip: 3e8}\ntrain: {seed: 9223372036854775807}\n");
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        const char *uses = gr_program_find(programs[i])->sections;
        const bool  trains = strstr(uses, "optim"), runs = strstr(uses, "run");
        const char *given = trains ? "numbers.yaml" : runs ? "all.yaml" : "tools.yaml";
        gr_config  *a = ACCEPT(programs[i], given), *b = NULL;
        char       *text = NULL, *again = NULL, *help = NULL;

        CHECK(gr_config_print(a, programs[i], &text) == GR_OK, "print");
        b = parse(programs[i], text);
        CHECK(gr_config_print(b, programs[i], &again) == GR_OK, "print again");
        CHECK(!strcmp(text, again), "graft-%s: printed twice\n%s\n%s", programs[i], text, again);
        if (runs) CHECK(!strcmp(b->run.out, odd) && b->run.threads == 4096, "graft-%s: a value changed", programs[i]);
        if (trains)
            CHECK(b->optim.eps == 1.2345678901234567e-17 && b->optim.lr == 0.1 && b->optim.clip == 3e8 &&
                      b->train.seed == INT64_MAX,
                  "numbers changed");

        CHECK(gr_config_help(programs[i], &help) == GR_OK, "help");
        CHECK(strstr(help, runs ? "run.out" : "verify.paths") && strstr(help, "must be given") &&
                  strstr(help, "\n   85  "),
              "help:\n%s", help);
        CHECK(!strstr(help, "logits.k ") == !strstr(text, "\nlogits:"), "help and print disagree on the sections");
        gr_free(&text);
        gr_free(&again);
        gr_free(&help);
        gr_config_close(&a);
        gr_config_close(&b);
    }
}

/* What a reader of --print-config and --help sees. */
static void print_is_readable(void)
{
    gr_config *cfg = ACCEPT("teacher", "run.out=o", "data.shards=s", "model.weights=w");
    char      *text = NULL, *help = NULL;

    CHECK(gr_config_print(cfg, "teacher", &text) == GR_OK && gr_config_help("extend", &help) == GR_OK, "print");
    CHECK(strstr(text, "\n# the process\nrun:\n  # where the result goes"), "%s", text);
    CHECK(
        strstr(
            help,
            "\noptim: AdamW\n  optim.lr                   number, 0 to 1000; default 3e-4\n      peak learning rate\n"),
        "%s", help);
    CHECK(strstr(text, "(integer, 1 to 16777216 [tokens]; default 1024)\n  context: 1024\n"), "%s", text);
    CHECK(strstr(text, "(cpu | cuda; default cpu)\n  backend: cpu\n"), "%s", text);
    CHECK(strstr(text, "(string; must be given)\n  out: \"o\"\n"), "%s", text);
    CHECK(strstr(help, "  heldout.every              integer >= 1 [steps]; default 100\n      evaluate so often"), "%s",
          help);
    CHECK(!strstr(help, "convert."), "%s", help);
    gr_free(&text);
    gr_free(&help);
    gr_config_close(&cfg);
}

static void resolved_text_is_strict(void)
{
    gr_config *cfg = NULL;

    CHECK(gr_config_from_text(&cfg, "align", "t", "base: /etc/passwd\n", 18) == GR_ERR_CONFIG, "a base in stored text");
    CHECK(gr_config_from_text(&cfg, "align", "t", "logits: {}\n", 11) == GR_ERR_CONFIG, "a foreign section");
    CHECK(gr_config_from_text(&cfg, "nobody", "t", "", 0) == GR_ERR_ARG, "no such program");
    CHECK(!cfg, "set on failure");
}

/* Of two configurations only keys that cannot change the result may differ; a key that the older one lacks has its
 * default; and what the result is made from is known. */
static void same_and_inputs(void)
{
    static const struct {
        const char *text;
        gr_status   st;
    } then[] = {{"run: {out: a}\nmodel: {weights: w}\ndata: {shards: s}\n", GR_OK},
                {"run: {out: elsewhere, threads: 3}\nmodel: {weights: w}\ndata: {shards: s}\n", GR_OK},
                {"run: {out: a}\nmodel: {weights: w}\ndata: {shards: s, context: 1024}\nlogits: {k: 32}\n", GR_OK},
                {"run: {out: a}\nmodel: {weights: w}\ndata: {shards: s}\nlogits: {k: 31}\n", GR_ERR_CONFIG},
                {"run: {out: a}\nmodel: {weights: v}\ndata: {shards: s}\n", GR_ERR_CONFIG},
                {"run: {out: a}\nmodel: {weights: w}\ndata: {shards: s, surprise: 1}\n", GR_ERR_CONFIG}};
    gr_config   *now = parse("teacher", then[0].text), *text = NULL;
    gr_input_key key[GR_MAX_INPUTS];

    for (size_t i = 0; now && i < sizeof then / sizeof *then; i++)
        CHECK(gr_config_same(now, "teacher", then[i].text, "it") == then[i].st, "configuration %d", (int)i);
    CHECK(now && gr_config_inputs(now, "teacher", key) == 2 && !strcmp(key[0].key, "model.weights") &&
              !strcmp(key[0].path.v[0], "w") && !strcmp(key[1].key, "data.shards") && !key[1].pattern,
          "what teacher reads");
    text = parse("tokenize", "run: {out: a}\ntokenize: {inputs: [x, y], tokenizer: t}\n");
    CHECK(text && gr_config_inputs(text, "tokenize", key) == 2 && key[0].pattern && key[0].path.n == 2 &&
              !strcmp(key[0].path.v[1], "y") && !strcmp(key[1].path.v[0], "t"),
          "what tokenize reads");
    gr_config_close(&text);
    gr_config_close(&now);
}

static void commands(void)
{
    static char said[1 << 16];
    static const struct {
        gr_cli      what;
        const char *arg[3];
        int         n;
    } table[] = {{GR_CLI_HELP, {"--help"}, 1},
                 {GR_CLI_HELP, {"nonsense=1", "-h", "--what"}, 3},
                 {GR_CLI_VERSION, {"--version"}, 1},
                 {GR_CLI_PRINT, {"run.out=a", "--print-config", "data.shards=s"}, 3}};

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        gr_config *cfg = NULL;
        gr_cli     what = GR_CLI_RUN;

        CHECK(open_config(&cfg, &what, "extend", said, sizeof said, table[i].n, table[i].arg) == GR_OK, "%s", said);
        CHECK(what == table[i].what && !cfg == (what != GR_CLI_PRINT), "command %zu", i);
        gr_config_close(&cfg);
    }
}

int main(void)
{
    const char *place = getenv("GR_TEST_DIR");
    char        fresh[] = "/tmp/test_config.XXXXXX";

    if (!place) place = mkdtemp(fresh);
    CHECK(place && gr_path(dir, "%s", place) == GR_OK, "no directory for the files of this test");
    refuse_hostile();
    refuse_large();
    survive_damage();
    inherit_and_override();
    expand_strings();
    plain_arguments();
    optional_lists();
    round_trips();
    print_is_readable();
    resolved_text_is_strict();
    same_and_inputs();
    commands();
    if (place == fresh) CHECK(gr_remove_tree(dir) == GR_OK, "cannot clean up");
    return check_result();
}
