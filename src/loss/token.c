#include "loss/token.h"
#include "util/beat.h"

int64_t gr_token_tile(int64_t n, int64_t vocab)
{
    const int64_t fit = (INT64_C(64) << 20) / (int64_t)sizeof(float) / vocab, tile = fit < 16 ? 16 : fit;

    return tile < n ? tile : n;
}

static gr_tensor rows_or_none(gr_tensor t, int64_t first, int64_t n)
{
    return t.data ? gr_rows(t, first, n) : gr_none();
}

static gr_tensor logits_of(const gr_ops *op, gr_tensor z, gr_tensor h, gr_tensor head)
{
    gr_beat_again(); /* per tile */
    op->gemm(z, h, false, head, true, 1.0f, 0.0f, NULL);
    return z;
}

gr_status gr_token_loss(const gr_ops *op, gr_arena *scratch, gr_tensor dh, gr_tensor dhead, gr_tensor sum, gr_tensor h,
                        gr_tensor head, const gr_targets *t)
{
    gr_status     st = GR_OK;
    const int64_t n = h.dim[0], tile = gr_token_tile(n, head.dim[0]);
    const gr_mark mark = gr_arena_mark(scratch);
    gr_tensor     buffer = gr_take2(scratch, GR_F32, tile, head.dim[0]);

    GR_TRY(gr_arena_status(scratch));
    for (int64_t i = 0; i < n; i += tile) {
        const int64_t    rows = i + tile < n ? tile : n - i;
        const gr_targets part = {gr_rows(t->id, i, rows), rows_or_none(t->top_id, i, rows),
                                 rows_or_none(t->top_lp, i, rows), rows_or_none(t->tail_lp, i, rows), t->kl};
        gr_tensor        hi = gr_rows(h, i, rows), z = logits_of(op, gr_rows(buffer, 0, rows), hi, head);
        const bool       learn = dh.data || dhead.data;

        op->token_loss(learn ? z : gr_none(), sum, z, &part, NULL);
        if (dh.data) op->gemm(gr_rows(dh, i, rows), z, false, head, false, 1.0f, 0.0f, NULL);
        if (dhead.data) op->gemm(dhead, z, true, hi, false, 1.0f, 1.0f, NULL);
    }
out:
    gr_arena_release(scratch, mark);
    return st;
}

gr_status gr_token_top_k(const gr_ops *op, gr_arena *scratch, gr_tensor id, gr_tensor lp, gr_tensor tail, gr_tensor h,
                         gr_tensor head)
{
    gr_status     st = GR_OK;
    const int64_t n = h.dim[0], tile = gr_token_tile(n, head.dim[0]);
    const gr_mark mark = gr_arena_mark(scratch);
    gr_tensor     buffer = gr_take2(scratch, GR_F32, tile, head.dim[0]);

    GR_TRY(gr_arena_status(scratch));
    for (int64_t i = 0; i < n; i += tile) {
        const int64_t rows = i + tile < n ? tile : n - i;
        gr_tensor     z = logits_of(op, gr_rows(buffer, 0, rows), gr_rows(h, i, rows), head);
        op->top_k(gr_rows(id, i, rows), gr_rows(lp, i, rows), gr_rows(tail, i, rows), z, NULL);
    }
out:
    gr_arena_release(scratch, mark);
    return st;
}

gr_status gr_token_kl(const gr_ops *op, gr_arena *scratch, gr_tensor sum, gr_tensor h_student, gr_tensor head_student,
                      gr_tensor h_teacher, gr_tensor head_teacher, gr_tensor id)
{
    gr_status     st = GR_OK;
    const int64_t n = h_student.dim[0], tile = gr_token_tile(n, head_student.dim[0]);
    const gr_mark mark = gr_arena_mark(scratch);
    gr_tensor     zs = gr_take2(scratch, GR_F32, tile, head_student.dim[0]),
              zt = gr_take2(scratch, GR_F32, tile, head_teacher.dim[0]);

    GR_TRY(gr_arena_status(scratch));
    for (int64_t i = 0; i < n; i += tile) {
        const int64_t rows = i + tile < n ? tile : n - i;
        logits_of(op, gr_rows(zs, 0, rows), gr_rows(h_student, i, rows), head_student);
        logits_of(op, gr_rows(zt, 0, rows), gr_rows(h_teacher, i, rows), head_teacher);
        op->kl_full(sum, gr_rows(zs, 0, rows), gr_rows(zt, 0, rows), gr_rows(id, i, rows), NULL);
    }
out:
    gr_arena_release(scratch, mark);
    return st;
}
