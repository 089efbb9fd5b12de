/* What recurrences computed in chunks share: kernels/cpu/chunk.h. */
#include "kernels/cpu/chunk.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include <math.h>
#include <omp.h>
#include <string.h>

/* ---- one head ---------------------------------------------------------------------------------------------------- */

gr_head gr_head_of(const gr_core_args *a, int h)
{
    const int kv = h / (a->n_head / a->n_kv_head), K = a->k_dim, V = a->v_dim, R = a->n_row > 1 ? a->n_row : 1;
    gr_head   x = {.K = K,
                   .V = V,
                   .C = a->chunk,
                   .R = R,
                   .n_head = a->n_head,
                   .scale = a->scale,
                   .iterations = a->iterations,
                   .ridge = a->ridge,
                   .ldk = gr_tile_ld(K),
                   .ldv = gr_tile_ld(V),
                   .ldc = gr_tile_ld(a->chunk * R),
                   .q_row = (int64_t)a->n_head * K,
                   .o_row = (int64_t)a->n_head * V,
                   .k_row = (int64_t)a->n_kv_head * K,
                   .v_row = (int64_t)a->n_kv_head * V,
                   .dk_row = (int64_t)a->n_head * K,
                   .dv_row = (int64_t)a->n_head * V,
                   .q = gr_at(a->q, (int64_t)h * K),
                   .k = gr_at(a->k, (int64_t)kv * K),
                   .v = gr_at(a->v, (int64_t)kv * V),
                   .o = gr_at(a->o, (int64_t)h * V),
                   .d_o = gr_at(a->d_o, (int64_t)h * V),
                   .aux = gr_at(a->aux, h * (a->aux.rank > 2 ? a->aux.dim[2] : 1)),
                   .dq = gr_at(a->dq, (int64_t)h * K)};

    for (int i = 0; i < GR_MIXER_GATES; i++) {
        x.gate[i] = gr_at(a->gate[i], h);
        x.dgate[i] = gr_at(a->dgate[i], h);
    }
    for (int i = 0; i < GR_CORE_STATES; i++) {
        x.state_in[i] = gr_at(a->state_in[i], h * gr_row(a->state_in[i]));
        x.state_out[i] = gr_at(a->state_out[i], h * gr_row(a->state_out[i]));
        x.dstate_in[i] = gr_at(a->dstate_in[i], h * gr_row(a->dstate_in[i]));
        x.dstate_out[i] = gr_at(a->dstate_out[i], h * gr_row(a->dstate_out[i]));
    }
    return x;
}

void gr_state_load(int K, int V, const float *from, float *S, int64_t ld)
{
    if (from)
        gr_scale_rows(K, V, 1, NULL, from, V, S, ld);
    else
        memset(S, 0, (size_t)K * (size_t)ld * sizeof *S);
}

void gr_state_store(int K, int V, const float *S, int64_t ld, float *to)
{
    if (to) gr_scale_rows(K, V, 1, NULL, S, ld, to, V);
}

/* ---- decay inside a chunk ---------------------------------------------------------------------------------------- */

void gr_decay_furnish(gr_decay *d, gr_room *r, const gr_head *x, bool backward)
{
    const int64_t m = (int64_t)x->C * x->R, line = gr_line(m);

    d->G = (double *)gr_room_take(r, 2 * line);
    d->dG = backward ? (double *)gr_room_take(r, 2 * line) : NULL;
    d->e_in = gr_room_take(r, line);
    d->e_out = gr_room_take(r, line);
    d->one = gr_room_take(r, line);
    d->col = gr_room_take(r, line);
    d->P = gr_room_take(r, m * x->ldc);
}

/* One past the last row that row i sees: its token's last. */
static int seen(const gr_head *x, int i)
{
    return x->R == 1 ? i + 1 : (i / x->R + 1) * x->R;
}

void gr_decay_load(const gr_head *x, gr_decay *d, int64_t t, int n)
{
    const int m = n * x->R;
    double    sum = 0;

    for (int i = 0; i < n; i++) {
        sum += (double)x->gate[0][(t + i) * x->n_head];
        for (int r = i * x->R; r < (i + 1) * x->R; r++) {
            d->G[r] = sum;
            d->one[r] = 1.0f;
        }
    }
#pragma omp simd
    for (int i = 0; i < m; i++) {
        d->e_in[i] = gr_expf((float)d->G[i]);
        d->e_out[i] = gr_expf((float)(sum - d->G[i]));
    }
    d->e_all = gr_expf((float)sum);
    if (d->dG) memset(d->dG, 0, (size_t)m * sizeof *d->dG);
    for (int i = 0; i < m; i++) {
        const int end = seen(x, i), whole = (int)gr_line(end), last = m < whole ? m : whole;
        float    *p = d->P + (int64_t)i * x->ldc;
#pragma omp simd
        for (int j = 0; j < last; j++) p[j] = gr_expf(j < end ? (float)(d->G[i] - d->G[j]) : -INFINITY);
    }
}

void gr_weigh(const gr_head *x, const gr_decay *d, float *M, int m, int strict, const float *row, const float *col)
{
    for (int i = 0; i < m; i++) {
        const float *p = d->P + (int64_t)i * x->ldc, r = row[i];
        float       *mi = M + (int64_t)i * x->ldc;
        const int    end = seen(x, i) - strict;
#pragma omp simd
        for (int j = 0; j < m; j++) mi[j] = j < end ? r * p[j] * col[j] * mi[j] : 0.0f;
    }
}

void gr_weigh_back(const gr_head *x, gr_decay *d, float *M, const float *W, int m, int strict, const float *row)
{
    memset(d->col, 0, (size_t)m * sizeof *d->col);
    for (int i = 0; i < m; i++) {
        const int64_t at = (int64_t)i * x->ldc;
        const float  *p = d->P + at, *wi = W + at, r = row[i];
        float        *mi = M + at, sum = 0, *col = d->col;
        const int     end = seen(x, i) - strict, own = seen(x, i) - x->R;

#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < m; j++) {
            const float z = j < own ? mi[j] * wi[j] : 0.0f;
            sum += z;
            col[j] += z;
            mi[j] = j < end ? r * p[j] * mi[j] : 0.0f;
        }
        d->dG[i] += (double)sum;
    }
    for (int j = 0; j < m; j++) d->dG[j] -= (double)d->col[j];
}

void gr_decay_back(const gr_head *x, gr_decay *d, int64_t t, int m, const float *a, const float *da, const float *b,
                   const float *db, const float *w, const float *dw, double kept)
{
    double sum = kept;

    for (int i = 0; i < m; i++) {
        const int64_t at = (int64_t)i * x->ldk;
        const double  out = i < m - x->R ? (double)gr_dot(x->K, w + at, dw + at) : 0.0; /* e^{G_end - G_end} is 1 */

        d->dG[i] += (double)gr_dot(x->K, a + at, da + at) + (b ? (double)gr_dot(x->K, b + at, db + at) : 0.0) - out;
        sum += out;
    }
    d->dG[m - 1] += sum;
    sum = 0;
    for (int i = m - 1; i >= 0; i--) { /* G_i holds g_t for all t up to its token */
        sum += d->dG[i];
        if (i % x->R == 0) x->dgate[0][(t + i / x->R) * x->n_head] = (float)sum;
    }
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

static void one_token(const gr_core_args *a, const gr_recurrence *r)
{
    const gr_head   any = gr_head_of(a, 0);
    const int64_t   size = r->room(&any, GR_ROOM_TOKEN);
    const gr_tensor rooms = gr_take2(a->scratch, GR_F32, a->n_head, size);

    if (!rooms.data) return;
#pragma omp parallel for if ((int64_t)a->n_head * a->k_dim * a->v_dim > GR_SERIAL)
    for (int h = 0; h < a->n_head; h++) {
        const gr_head x = gr_head_of(a, h);

        r->token(&x, gr_at(rooms, h * size));
    }
}

static gr_span span_of(const gr_seq *seq, int d)
{
    return (gr_span){.first = seq->doc[d], .end = seq->doc[d + 1], .is_first = d == 0, .is_last = d == seq->n_doc - 1};
}

static int threads_for(int64_t n_task)
{
    return (int)(n_task < omp_get_max_threads() ? n_task : omp_get_max_threads());
}

void gr_chunked_forward(const gr_core_args *a, const gr_recurrence *r)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const gr_head any = gr_head_of(a, 0);
    const int64_t n_task = (int64_t)a->seq->n_doc * a->n_head, size = r->room(&any, GR_ROOM_FORWARD);
    const int     n_thread = threads_for(n_task);
    gr_tensor     rooms;

    if (a->seq->n == 1 && a->seq->n_doc == 1) {
        one_token(a, r);
        goto out;
    }
    rooms = gr_take2(a->scratch, GR_F32, n_thread, size);
    if (!rooms.data) goto out;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread)
    for (int64_t i = 0; i < n_task; i++) {
        const gr_span doc = span_of(a->seq, (int)(i / a->n_head));
        const gr_head x = gr_head_of(a, (int)(i % a->n_head));

        r->forward(&x, &doc, gr_at(rooms, omp_get_thread_num() * size));
    }
out:
    gr_arena_release(a->scratch, mark);
}

/* y [rows, G, D] = sum over the heads of each group of x [rows, H, D], in the order of heads. */
static void sum_groups(const gr_core_args *a, float *y, const float *x, int D)
{
    const int     rep = a->n_head / a->n_kv_head, R = a->n_row > 1 ? a->n_row : 1;
    const int64_t n = a->seq->n * R * a->n_kv_head;

#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        float *yi = y + i * D;

        memcpy(yi, x + i * rep * D, (size_t)D * sizeof *yi);
        for (int r = 1; r < rep; r++) {
            const float *xr = x + (i * rep + r) * D;
#pragma omp simd
            for (int j = 0; j < D; j++) yi[j] += xr[j];
        }
    }
}

static int64_t longest_doc(const gr_seq *seq)
{
    int64_t top = 1;

    for (int d = 0; d < seq->n_doc; d++)
        if (seq->doc[d + 1] - seq->doc[d] > top) top = seq->doc[d + 1] - seq->doc[d];
    return top;
}

void gr_chunked_backward(const gr_core_args *a, const gr_recurrence *r)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const gr_head any = gr_head_of(a, 0);
    const bool    grouped = a->n_head != a->n_kv_head;
    const int64_t n_task = (int64_t)a->seq->n_doc * a->n_head, n_row = a->seq->n * any.R;
    const int64_t size = r->room(&any, (longest_doc(a->seq) + a->chunk - 1) / a->chunk);
    const int     n_thread = threads_for(n_task);
    gr_tensor     rooms, dk = a->dk, dv = a->dv; /* per head until they are summed over the group */

    rooms = gr_take2(a->scratch, GR_F32, n_thread, size);
    if (grouped) {
        dk = gr_take3(a->scratch, GR_F32, n_row, a->n_head, a->k_dim);
        if (dv.data) dv = gr_take3(a->scratch, GR_F32, n_row, a->n_head, a->v_dim);
    }
    if (!rooms.data || !dk.data || (a->dv.data && !dv.data)) goto out;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread)
    for (int64_t i = 0; i < n_task; i++) {
        const gr_span doc = span_of(a->seq, (int)(i / a->n_head));
        const int     h = (int)(i % a->n_head);
        gr_head       x = gr_head_of(a, h);

        x.dk = gr_at(dk, (int64_t)h * a->k_dim);
        x.dv = gr_at(dv, (int64_t)h * a->v_dim);
        r->backward(&x, &doc, gr_at(rooms, omp_get_thread_num() * size));
    }
    if (grouped) {
        sum_groups(a, a->dk.data, dk.data, a->k_dim);
        if (dv.data) sum_groups(a, a->dv.data, dv.data, a->v_dim);
    }
out:
    gr_arena_release(a->scratch, mark);
}
