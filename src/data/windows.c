#include "data/windows.h"
#include "util/mem.h"
#include <string.h>

/* Every buffer twice: `host` is filled here, `dev` belongs to the backend. */
typedef struct pair {
    void     *host;
    gr_tensor dev;
} pair;

struct gr_windows {
    const gr_ops *ops;
    gr_shards    *shards;
    gr_logits    *logits;
    int64_t       capacity, k;
    pair          ids, mask, pos, doc, target, top_id, top_lp, tail_lp;
    uint32_t     *token; /* [capacity + 1]: one more, the target of the last position */
    uint8_t      *loss_mask, *doc_start;
};

static gr_status open_pair(gr_windows *w, pair *p, gr_dtype t, int64_t n, int64_t m)
{
    gr_status      st = GR_OK;
    const uint64_t bytes = (uint64_t)(n * m) * (uint64_t)gr_dtype_size(t);

    GR_TRY(gr_alloc(&p->host, bytes, 1, "micro-batch"));
    p->dev = gr_view2(NULL, t, n, m);
    GR_TRY(w->ops->alloc(&p->dev.data, bytes, "micro-batch"));
out:
    return st;
}

gr_status gr_windows_open(gr_windows **out, const gr_ops *ops, gr_shards *shards, gr_logits *logits, int64_t capacity)
{
    gr_status   st = GR_OK;
    gr_windows *w = NULL;

    GR_TRY(gr_alloc(&w, 1, sizeof *w, "windows"));
    w->ops = ops;
    w->shards = shards;
    w->logits = logits;
    w->capacity = capacity;
    w->k = logits ? gr_logits_spec_of(logits)->k : 0;
    GR_TRY(open_pair(w, &w->ids, GR_I32, capacity, 1));
    GR_TRY(open_pair(w, &w->mask, GR_U8, capacity, 1));
    GR_TRY(open_pair(w, &w->pos, GR_I32, capacity, 1));
    GR_TRY(open_pair(w, &w->doc, GR_I32, capacity + 1, 1));
    GR_TRY(open_pair(w, &w->target, GR_I32, capacity, 1));
    if (logits) {
        GR_TRY(open_pair(w, &w->top_id, GR_I32, capacity, w->k));
        GR_TRY(open_pair(w, &w->top_lp, GR_F32, capacity, w->k));
        GR_TRY(open_pair(w, &w->tail_lp, GR_F32, capacity, 1));
    }
    GR_TRY(gr_alloc(&w->token, (uint64_t)capacity + 1, sizeof *w->token, "window"));
    GR_TRY(gr_alloc(&w->loss_mask, (uint64_t)capacity + 1, 1, "window"));
    GR_TRY(gr_alloc(&w->doc_start, (uint64_t)capacity + 1, 1, "window"));
    *out = w;
    w = NULL;
out:
    gr_windows_close(&w);
    return st;
}

void gr_windows_close(gr_windows **wp)
{
    gr_windows *w = *wp;

    if (!w) return;
    pair *const all[] = {&w->ids, &w->mask, &w->pos, &w->doc, &w->target, &w->top_id, &w->top_lp, &w->tail_lp};
    for (int i = 0; i < 8; i++) {
        gr_free(&all[i]->host);
        if (all[i]->dev.data) w->ops->free(&all[i]->dev.data);
    }
    gr_free(&w->doc_start);
    gr_free(&w->loss_mask);
    gr_free(&w->token);
    gr_free(wp);
}

/* One window into rows [at, at + n) of the micro-batch. */
static gr_status read_window(gr_windows *w, int64_t start, int64_t n, int64_t at, int *n_doc)
{
    gr_status  st = GR_OK;
    const bool more = start + n < gr_shards_tokens(w->shards);
    int32_t   *ids = w->ids.host, *pos = w->pos.host, *doc = w->doc.host, *target = w->target.host;
    uint8_t   *mask = w->mask.host;

    GR_TRY(gr_shards_read(w->shards, start, n + more, w->token, w->loss_mask, w->doc_start));
    for (int64_t i = 0, first = 0; i < n; i++) {
        if (i == 0 || w->doc_start[i]) {
            first = i;
            doc[(*n_doc)++] = (int32_t)(at + i);
        }
        const bool has_next = i + 1 < n + more && !w->doc_start[i + 1] && w->loss_mask[i + 1];
        ids[at + i] = (int32_t)w->token[i];
        mask[at + i] = w->loss_mask[i];
        pos[at + i] = (int32_t)(i - first);
        target[at + i] = has_next ? (int32_t)w->token[i + 1] : -1;
    }
    if (w->logits)
        GR_TRY(gr_logits_read(w->logits, start, n, (int32_t *)w->top_id.host + at * w->k,
                              (float *)w->top_lp.host + at * w->k, (float *)w->tail_lp.host + at));
out:
    return st;
}

/* The first n rows of a buffer, copied to the backend. */
static gr_tensor send(gr_windows *w, const pair *p, int64_t n)
{
    gr_tensor t = gr_rows(p->dev, 0, n);

    w->ops->copy(t.data, p->host, (uint64_t)gr_count(t) * (uint64_t)gr_dtype_size(t.dtype), GR_TO_BACKEND, NULL);
    if (t.dim[1] == 1) t.rank = 1;
    return t;
}

static void publish(gr_windows *w, int64_t n, int n_doc, gr_batch *b)
{
    int32_t *doc = w->doc.host;

    doc[n_doc] = (int32_t)n;
    memset(b, 0, sizeof *b);
    b->ids = send(w, &w->ids, n);
    b->mask = send(w, &w->mask, n);
    b->seq = (gr_seq){
        .n = n, .n_doc = n_doc, .doc = doc, .doc_dev = send(w, &w->doc, n_doc + 1), .pos = send(w, &w->pos, n)};
    b->targets.id = send(w, &w->target, n);
    b->targets.top_id = b->targets.top_lp = b->targets.tail_lp = gr_none();
    if (w->logits) {
        b->targets.top_id = send(w, &w->top_id, n);
        b->targets.top_lp = send(w, &w->top_lp, n);
        b->targets.tail_lp = send(w, &w->tail_lp, n);
        b->targets.top_id.rank = b->targets.top_lp.rank = 2;
    }
}

/* One window behind the *row rows that are there. */
static gr_status append(gr_windows *w, int64_t start, int64_t length, int64_t *row, int *n_doc)
{
    gr_status st = GR_OK;

    GR_CHECK(*row + length <= w->capacity, GR_ERR_ARG, "a micro-batch of more than %lld tokens",
             (long long)w->capacity);
    GR_TRY(read_window(w, start, length, *row, n_doc));
    *row += length;
out:
    return st;
}

gr_status gr_windows_fill(gr_windows *w, const int64_t *start, const int64_t *length, int64_t n, gr_batch *batch)
{
    gr_status st = GR_OK;
    int64_t   row = 0;
    int       n_doc = 0;

    for (int64_t i = 0; i < n; i++) GR_TRY(append(w, start[i], length[i], &row, &n_doc));
    publish(w, row, n_doc, batch);
out:
    return st;
}

gr_status gr_windows_run(gr_windows *w, int64_t at, int64_t end, int64_t context, int64_t n, gr_batch *batch)
{
    gr_status st = GR_OK;
    int64_t   row = 0;
    int       n_doc = 0;

    for (; n > 0 && at < end; n--, at += context)
        GR_TRY(append(w, at, at + context < end ? context : end - at, &row, &n_doc));
    publish(w, row, n_doc, batch);
out:
    return st;
}

gr_status gr_windows_from_ids(gr_windows *w, const int32_t *ids, int64_t n, gr_batch *batch)
{
    gr_status st = GR_OK;
    int32_t  *to = w->ids.host, *pos = w->pos.host, *doc = w->doc.host, *target = w->target.host;
    uint8_t  *mask = w->mask.host;

    GR_CHECK(n <= w->capacity, GR_ERR_ARG, "a micro-batch of more than %lld tokens", (long long)w->capacity);
    doc[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        to[i] = ids[i];
        pos[i] = (int32_t)i;
        mask[i] = 1;
        target[i] = -1;
    }
    publish(w, n, 1, batch);
out:
    return st;
}
