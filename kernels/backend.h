/** @file backend.h  What a backend can do: memory, and the table of plain operations.  [leaf]
 *
 * One gr_ops per backend (gr_ops_cpu; gr_ops_cuda later). Models, losses and optimisers call through the table and
 * never know which one it is. Sequence mixers are not here: see kernels/mixer.h.
 *
 * Conventions
 *   Outputs first. Tensors are row-major views of backend memory.
 *   N tokens, R rows, H heads, D channels of a head, V vocabulary.
 *   "+=" accumulates, "=" overwrites. A gradient passed as gr_none() is not computed.
 *   An operation cannot fail in normal life; a broken device ends the job (gr_die in its room).
 *   Repeatable: the same call with the same threads gives the same bits.
 *   Reductions over tokens or rows are summed in fp32 within fixed blocks and in fp64 across blocks, or better.
 * Source of formulas   docs/math.md, numbered as in the comments.
 */
#ifndef GR_KERNELS_BACKEND_H
#define GR_KERNELS_BACKEND_H
#include "kernels/tensor.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_stream gr_stream; /**< an order of execution; NULL on cpu */

/** How N token rows are cut into documents. Nothing crosses a document border: not attention, not
 * the convolution, not a recurrent state. */
typedef struct gr_seq {
    int64_t        n;       /**< tokens                                                     */
    int            n_doc;   /**< documents, at least 1                                      */
    const int32_t *doc;     /**< [n_doc + 1] first token of each, then n; host memory       */
    gr_tensor      doc_dev; /**< the same as I32 in backend memory                          */
    gr_tensor      pos;     /**< I32 [n] position inside the document, backend memory       */
} gr_seq;

enum { GR_MAX_TOP_K = 1024 };

/** What the student learns from at n token positions. k <= GR_MAX_TOP_K. */
typedef struct gr_targets {
    gr_tensor id;      /**< I32 [n]     next token, or -1: nothing to learn here            */
    gr_tensor top_id;  /**< I32 [n, k]  teacher's k most likely tokens, distinct; or none   */
    gr_tensor top_lp;  /**< F32 [n, k]  their log-probabilities [nats]                      */
    gr_tensor tail_lp; /**< F32 [n]     log of all remaining probability; -INFINITY if zero */
    float     kl;      /**< weight of KL; cross-entropy weighs 1 - kl. 0 without top_id     */
} gr_targets;

typedef enum gr_copy { GR_TO_BACKEND, GR_TO_HOST, GR_WITHIN } gr_copy;

typedef struct gr_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    float grad_scale;   /**< multiplies every gradient first (clipping, 1 / tokens)        */
    float bias1, bias2; /**< 1 - beta^t, computed by the host in fp64                       */
} gr_adamw;

typedef struct gr_ops {
    const char *name; /**< "cpu" */

    /* ---- memory: uint64 bytes, zeroed; GR_ERR_NOMEM logged with `what` ---- */
    gr_status (*alloc)(void **p, uint64_t bytes, const char *what);
    void (*free)(void **p);
    void (*copy)(void *dst, const void *src, uint64_t bytes, gr_copy way, gr_stream *s); /**< done on return */
    void (*zero)(gr_tensor x, gr_stream *s);

    /* ---- algebra ---- */

    /** c = alpha op(a) op(b) + beta c;  op(a) [M, K], op(b) [K, N], c [M, N]; op transposes when ta / tb.
     * F32. beta 0 does not read c. A linear layer is gemm(y, x, false, W, true): y = x W^T, W [out, in]. */
    void (*gemm)(gr_tensor c, gr_tensor a, bool ta, gr_tensor b, bool tb, float alpha, float beta, gr_stream *s);

    /** y += x. */
    void (*add)(gr_tensor y, gr_tensor x, gr_stream *s);
    /** y += b in every row: y [R, D], b [D]. */
    void (*bias)(gr_tensor y, gr_tensor b, gr_stream *s);
    /** db += sum of dy's rows; db may be none. */
    void (*bias_back)(gr_tensor db, gr_tensor dy, gr_stream *s);
    /** x *= a. */
    void (*scale)(gr_tensor x, float a, gr_stream *s);
    /** *sum (F64 [1]) += sum of squares. */
    void (*sumsq)(gr_tensor sum, gr_tensor x, gr_stream *s);

    /* ---- norms; rows [R, D] ---- */

    /** y = x rstd w,  rstd = (mean(x^2) + eps)^-1/2 [R].  w [D], or [G, D]: row r takes w's row r mod G. */
    void (*rmsnorm)(gr_tensor y, gr_tensor rstd, gr_tensor x, gr_tensor w, float eps, gr_stream *s);
    /** dx = (dx may be dy), dw += . */
    void (*rmsnorm_back)(gr_tensor dx, gr_tensor dw, gr_tensor dy, gr_tensor x, gr_tensor rstd, gr_tensor w,
                         gr_stream *s);

    /** y = x rs,  rs = (sum(x^2) + eps)^-1/2 [R]   (Gated DeltaNet's q and k). */
    void (*l2norm)(gr_tensor y, gr_tensor rs, gr_tensor x, float eps, gr_stream *s);
    /** dx = rs (dy - y <y, dy>); dx may be dy. */
    void (*l2norm_back)(gr_tensor dx, gr_tensor dy, gr_tensor y, gr_tensor rs, gr_stream *s);

    /** y = x inv,  inv = 1 / (|x| + eps) [R]   (Gated KalmaNet's q and k); y may be x. */
    void (*unit_norm)(gr_tensor y, gr_tensor inv, gr_tensor x, float eps, gr_stream *s);
    /** dx = inv (dy - y <y, dy> / |y|), inv dy where y = 0; dx may be dy. */
    void (*unit_norm_back)(gr_tensor dx, gr_tensor dy, gr_tensor y, gr_tensor inv, gr_stream *s);

    /** y = (x rstd w) silu(z): norm before gate. x, z, y [R, D]; w [D]. */
    void (*gated_norm)(gr_tensor y, gr_tensor rstd, gr_tensor x, gr_tensor z, gr_tensor w, float eps, gr_stream *s);
    /** dx =, dz =, dw +=. */
    void (*gated_norm_back)(gr_tensor dx, gr_tensor dz, gr_tensor dw, gr_tensor dy, gr_tensor x, gr_tensor rstd,
                            gr_tensor z, gr_tensor w, gr_stream *s);

    /* ---- positions, tokens, MLP ---- */

    /** cs F32 [N, D]: cos(pos f_i) then sin(pos f_i), i < D/2; inv_freq [D/2]. Angles in fp64 (exact at 128K). */
    void (*rope_table)(gr_tensor cs, gr_tensor pos, gr_tensor inv_freq, gr_stream *s);
    /** Rotate x [N, H, D] in place, half-split pairs (i, i + D/2); sign +1 forward, -1 backward. */
    void (*rope)(gr_tensor x, gr_tensor cs, int sign, gr_stream *s);

    /** x [N, D] = table[id]; id I32 [N]. An id outside the table gives a row of NaN. */
    void (*embed)(gr_tensor x, gr_tensor table, gr_tensor id, gr_stream *s);
    /** dtable[id] += dx, rows in token order. */
    void (*embed_back)(gr_tensor dtable, gr_tensor dx, gr_tensor id, gr_stream *s);

    /** h = silu(g) u. */
    void (*swiglu)(gr_tensor h, gr_tensor g, gr_tensor u, gr_stream *s);
    /** dg, du = ; may be g, u themselves, or dh. */
    void (*swiglu_back)(gr_tensor dg, gr_tensor du, gr_tensor dh, gr_tensor g, gr_tensor u, gr_stream *s);

    /* ---- what recurrent mixers share ---- */

    /** Causal depthwise convolution, then SiLU: y_t = silu(b + sum_j w[:, j] x_{t-W+1+j}), taps inside the document.
     * x, y [N, C]; w [C, W], W <= 7; b [C] or none. `head` [W-1, C] or none: the rows just before x of the same
     * document (decoding, sequence parallelism); it belongs to the first document. Its rows from before that document's
     * start are zero. */
    void (*conv)(gr_tensor y, gr_tensor x, gr_tensor w, gr_tensor b, gr_tensor head, const gr_seq *seq, gr_stream *s);
    /** dx =, dw +=, db +=, dhead = (all but dx may be none). x is the convolution's input. dhead's rows from before the
     * document's start are not to be used. */
    void (*conv_back)(gr_tensor dx, gr_tensor dw, gr_tensor db, gr_tensor dhead, gr_tensor dy, gr_tensor x, gr_tensor w,
                      gr_tensor b, gr_tensor head, const gr_seq *seq, gr_stream *s);

    /** Log-decay g = -exp(a_log) softplus(a + dt_bias), all <= 0. a, g [N, H]; a_log, dt_bias [H]. */
    void (*decay)(gr_tensor g, gr_tensor a, gr_tensor a_log, gr_tensor dt_bias, gr_stream *s);
    /** da =, da_log +=, ddt_bias +=. */
    void (*decay_back)(gr_tensor da, gr_tensor da_log, gr_tensor ddt_bias, gr_tensor dg, gr_tensor g, gr_tensor a,
                       gr_tensor a_log, gr_tensor dt_bias, gr_stream *s);

    /** y = softplus(x + b): step sizes. x, y [N, H]; b [H]. */
    void (*softplus)(gr_tensor y, gr_tensor x, gr_tensor b, gr_stream *s);
    /** dx = (may be dy), db += (may be none). */
    void (*softplus_back)(gr_tensor dx, gr_tensor db, gr_tensor dy, gr_tensor x, gr_tensor b, gr_stream *s);

    /** Past the recurrence: y_h += d_h x_g, g = h / (H / G). y [N, H, D], x [N, G, D], d [H]. */
    void (*skip)(gr_tensor y, gr_tensor x, gr_tensor d, gr_stream *s);
    /** dx +=, dd += (may be none). */
    void (*skip_back)(gr_tensor dx, gr_tensor dd, gr_tensor dy, gr_tensor x, gr_tensor d, gr_stream *s);

    /** y = scale sigmoid(x);  dx = dy y (1 - y / scale). */
    void (*sigmoid)(gr_tensor y, gr_tensor x, float scale, gr_stream *s);
    void (*sigmoid_back)(gr_tensor dx, gr_tensor dy, gr_tensor y, float scale, gr_stream *s);

    /* ---- losses; z [n, V] is a tile of logits, never the whole batch ---- */

    /** dz (may be z) = d/dz of sum over positions of (1 - kl) CE + kl KL(teacher || student).
     * sum F64 [3] += { sum CE, sum KL, positions counted } over positions with id >= 0, in nats. dz none: values only.
     * KL is over the k stored tokens plus one bucket with all remaining probability (docs/math.md 9.1); summed also
     * where kl is 0. A NaN in z, or an id outside the vocabulary, makes sum NaN. z is written to, and restored, while
     * it is read. */
    void (*token_loss)(gr_tensor dz, gr_tensor sum, gr_tensor z, const gr_targets *t, gr_stream *s);

    /** The k largest of each row: id I32 [n, k] in falling order (ties: lower id first), lp F32 [n, k] log-softmax
     * values, tail F32 [n] log of the remaining probability, computed as its own log-sum-exp. k <= min(V,
     * GR_MAX_TOP_K). A NaN in a row of z makes its lp and tail NaN. z is written to, and restored, while it is read. */
    void (*top_k)(gr_tensor id, gr_tensor lp, gr_tensor tail, gr_tensor z, gr_stream *s);

    /** sum F64 [2] += { sum over positions with id >= 0 of full KL(softmax zt || softmax zs), positions }. */
    void (*kl_full)(gr_tensor sum, gr_tensor zs, gr_tensor zt, gr_tensor id, gr_stream *s);

    /** Alignment: sum F64 [2] += { sum |h - y|^2, sum |y|^2 }, dh = 2 (h - y), over rows with mask (U8 [N], none =
     * all); dh 0 elsewhere. */
    void (*align_loss)(gr_tensor dh, gr_tensor sum, gr_tensor h, gr_tensor y, gr_tensor mask, gr_stream *s);

    /* ---- optimiser ---- */

    /** AdamW with decoupled decay on flat F32 (docs/math.md 9.4). */
    void (*adamw)(gr_tensor p, gr_tensor m, gr_tensor v, gr_tensor g, const gr_adamw *h, gr_stream *s);
} gr_ops;

extern const gr_ops gr_ops_cpu;

/** Tune the backend to this machine (BLAS kernel, threads) and say what was chosen in `note` [n_note bytes]. Call once,
 * before any op. threads: compute threads of this rank. GR_ERR_CONFIG when the build lacks the backend. */
gr_status gr_backend_open(const char *name, int threads, const gr_ops **ops, char *note, int n_note);

GR_C_END
#endif
