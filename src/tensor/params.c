#include "tensor/params.h"
#include "util/mem.h"
#include "util/rng.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Parameters start on a 64-byte boundary inside their unit: vector loads stay aligned. */
enum { PAD = 16 };

gr_status gr_params_open(gr_params **out, const gr_ops *ops)
{
    gr_status  st = GR_OK;
    gr_params *ps = NULL;

    GR_TRY(gr_alloc(&ps, 1, sizeof *ps, "parameter list"));
    ps->ops = ops;
    *out = ps;
out:
    return st;
}

void gr_params_close(gr_params **psp)
{
    gr_params *ps = *psp;

    if (!ps) return;
    for (int64_t i = 0; i < ps->n_unit; i++) {
        gr_tensor *const t[] = {&ps->unit[i].value, &ps->unit[i].grad, &ps->unit[i].m, &ps->unit[i].v};
        for (int j = 0; j < 4; j++) ps->ops->free(&t[j]->data);
    }
    gr_free(&ps->unit);
    gr_free(&ps->p);
    gr_free(psp);
}

static int64_t elements(const gr_param *p)
{
    int64_t n = 1;

    for (int i = 0; i < p->rank; i++) n *= p->dim[i];
    return n;
}

gr_status gr_params_add(gr_params *ps, const gr_param_spec *spec, const char *prefix, int block, int64_t *index)
{
    gr_status st = GR_OK;
    gr_param *p = NULL;

    GR_CHECK0(*spec->name, GR_ERR_ARG, "a parameter of %s has no name", prefix);
    if ((ps->n & (ps->n - 1)) == 0) /* room for 1, 2, 4, 8, ... */
        GR_TRY(gr_realloc(&ps->p, ps->n ? 2 * (uint64_t)ps->n : 1, sizeof *ps->p, "parameter list"));
    p = &ps->p[ps->n];
    GR_CHECK0(snprintf(p->name, sizeof p->name, "%s%s", prefix, spec->name) < (int)sizeof p->name, GR_ERR_ARG,
              "parameter name %s%s is longer than %d", prefix, spec->name, GR_NAME_MAX);
    p->rank = spec->rank;
    memcpy(p->dim, spec->dim, sizeof p->dim);
    p->init = spec->init;
    p->decay = spec->decay;
    p->trainable = true;
    p->block = block;
    p->value = p->grad = p->m = p->v = gr_none();
    if (index) *index = ps->n;
    ps->n++;
out:
    return st;
}

static bool matches(const char *name, const char *globs)
{
    char one[GR_NAME_MAX];

    while (*globs) {
        const size_t n = strcspn(globs, ",");
        snprintf(one, sizeof one, "%.*s", (int)n, globs);
        if (fnmatch(one, name, 0) == 0) return true;
        globs += n + (globs[n] == ',');
    }
    return false;
}

gr_status gr_params_train_only(gr_params *ps, const char *globs)
{
    gr_status st = GR_OK;
    int64_t   n = 0;

    for (int64_t i = 0; i < ps->n; i++) n += ps->p[i].trainable = matches(ps->p[i].name, globs);
    GR_CHECK0(n > 0 || !*globs, GR_ERR_CONFIG, "train.only = '%s': matches no parameter (the first is %s)", globs,
              ps->n ? ps->p[0].name : "none");
out:
    return st;
}

static gr_tensor shaped(const gr_param *p, gr_tensor unit, int64_t at)
{
    gr_tensor t = {(float *)unit.data + at, GR_F32, p->rank, {1, 1, 1, 1}};

    for (int i = 0; i < p->rank; i++) t.dim[i] = p->dim[i];
    return t;
}

static gr_status allocate_unit(gr_params *ps, gr_unit *u, bool training)
{
    gr_status        st = GR_OK;
    gr_tensor *const t[] = {&u->value, &u->grad, &u->m, &u->v};
    const int        n_buffer = training && u->trainable ? 4 : 1;
    int64_t          at = 0;

    for (int i = 0; i < 4; i++) *t[i] = gr_none();
    for (int i = 0; i < n_buffer; i++) {
        *t[i] = gr_view1(NULL, GR_F32, u->n);
        GR_TRY(ps->ops->alloc(&t[i]->data, (uint64_t)u->n * sizeof(float), "parameters"));
    }
    for (int64_t i = 0; i < ps->n; i++) {
        gr_param *p = &ps->p[i];
        if (p->block != u->block || p->trainable != u->trainable) continue;
        p->value = shaped(p, u->value, at);
        if (n_buffer == 4) {
            p->grad = shaped(p, u->grad, at);
            p->m = shaped(p, u->m, at);
            p->v = shaped(p, u->v, at);
        }
        at += (elements(p) + PAD - 1) / PAD * PAD;
    }
out:
    return st;
}

gr_status gr_params_allocate(gr_params *ps, bool training)
{
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&ps->unit, (uint64_t)ps->n, sizeof *ps->unit, "parameter units"));
    for (int64_t i = 0; i < ps->n; i++) {
        gr_unit *u = NULL;
        for (int64_t j = 0; j < ps->n_unit && !u; j++)
            if (ps->unit[j].block == ps->p[i].block && ps->unit[j].trainable == ps->p[i].trainable) u = &ps->unit[j];
        if (!u) {
            u = &ps->unit[ps->n_unit++];
            u->block = ps->p[i].block;
            u->trainable = ps->p[i].trainable;
        }
        u->n += (elements(&ps->p[i]) + PAD - 1) / PAD * PAD;
    }
    for (int64_t j = 0; j < ps->n_unit; j++) GR_TRY(allocate_unit(ps, &ps->unit[j], training));
out:
    return st;
}

/* Source  hybrid-model-factory's constructors (docs/math.md 2.1): A ~ U(0, 16), dt log-uniform in [1e-3, 0.1]. */
static float draw(gr_init init, uint64_t seed, uint64_t stream, int64_t i, int64_t width, const gr_init_law *l)
{
    const double u = gr_uniform(seed, stream, (uint64_t)i);

    switch (init) {
    case GR_INIT_ZERO: return 0.0f;
    case GR_INIT_ONE: return 1.0f;
    case GR_INIT_NORMAL: return (float)l->std * gr_normal(seed, stream, (uint64_t)i);
    case GR_INIT_DELTA: return i % width == width - 1 ? 1.0f : 0.0f;
    case GR_INIT_SHARE: return 1.0f / (float)width;
    case GR_INIT_A_LOG: /* A = 0 would never forget, and log 0 is no number */
        return (float)log(fmax(l->a_min + (l->a_max - l->a_min) * u, 1e-3));
    case GR_INIT_DT_BIAS: {
        const double dt = fmax(exp(log(l->dt_min) + u * log(l->dt_max / l->dt_min)), 1e-4);
        return (float)(dt + log(-expm1(-dt)));
    }
    }
    return 0.0f;
}

void gr_init_fill(float *x, const gr_param_spec *spec, const char *name, uint64_t seed, const gr_init_law *law)
{
    const uint64_t stream = gr_stream_of(name);
    const int64_t  width = spec->dim[spec->init == GR_INIT_SHARE ? 1 : spec->rank - 1];
    int64_t        n = 1;

    for (int i = 0; i < spec->rank; i++) n *= spec->dim[i];
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) x[i] = draw(spec->init, seed, stream, i, width, law);
}

gr_status gr_params_init(gr_params *ps, int64_t i, uint64_t seed, const gr_init_law *law)
{
    gr_status       st = GR_OK;
    const gr_param *p = &ps->p[i];
    gr_param_spec   spec = {.rank = p->rank, .init = p->init};
    const int64_t   n = elements(p);
    float          *host = NULL;

    memcpy(spec.dim, p->dim, sizeof spec.dim);
    GR_TRY(gr_alloc(&host, (uint64_t)n, sizeof *host, p->name));
    gr_init_fill(host, &spec, p->name, seed, law);
    ps->ops->copy(p->value.data, host, (uint64_t)n * sizeof *host, GR_TO_BACKEND, NULL);
out:
    gr_free(&host);
    return st;
}

int64_t gr_params_find(const gr_params *ps, const char *name)
{
    for (int64_t i = 0; i < ps->n; i++)
        if (!strcmp(ps->p[i].name, name)) return i;
    return -1;
}

int64_t gr_params_trainable(const gr_params *ps)
{
    int64_t n = 0;

    for (int64_t i = 0; i < ps->n; i++) n += ps->p[i].trainable ? elements(&ps->p[i]) : 0;
    return n;
}

int64_t gr_params_total(const gr_params *ps)
{
    int64_t n = 0;

    for (int64_t i = 0; i < ps->n; i++) n += elements(&ps->p[i]);
    return n;
}

void gr_params_zero_grad(gr_params *ps)
{
    for (int64_t i = 0; i < ps->n_unit; i++)
        if (ps->unit[i].grad.data) ps->ops->zero(ps->unit[i].grad, NULL);
}
