/** @file mixer.h  What a sequence mixer is: the contract every type and backend meets.  [leaf]
 *
 * A mixer maps the normed hidden states x [N, hidden] of packed documents to y [N, hidden]. Attention is a mixer like
 * any other. A type is one file per backend and one line in src/mixers/mixers.def:
 *
 *   kernels/cpu/mixer_<type>.c    gr_<type>_def   what it is: parameters, initialisation, layer forward and backward
 *                                                 in terms of gr_ops and of its core; the same on every backend
 *                                 gr_<type>_cpu   its core on cpu: the recurrence (or softmax) itself
 *   kernels/cuda/mixer_<type>.cu  gr_<type>_cuda  the core on cuda
 *
 * Symbols  N tokens, H query heads, G key/value heads (H multiple of G; query head h reads key head h / (H / G)), K key
 * width, V value width, D head_dim, C chunk length.  All F32 unless said otherwise. Layouts [N, H, K]: head-major
 * inside a token.
 *
 * A type may contain one of the others (bmojo: gr_mixer_spec.bmojo_inner): it appends that one's parameters, tape and
 * states to its own and calls its functions. Here it is a pointer to a definition, and to a core in gr_mixer_ctx; which
 * type that is, src/ decides.
 *
 * Source   docs/math.md, sections 0.6 to 6.
 */
#ifndef GR_KERNELS_MIXER_H
#define GR_KERNELS_MIXER_H
#include "kernels/arena.h"
#include "kernels/backend.h"

GR_C_BEGIN

enum {
    GR_MIXER_PARAMS = 36,
    GR_MIXER_TAPE = 44,
    GR_MIXER_GATES = 4,
    GR_MIXER_STATES = 12,
    GR_CORE_STATES = 3,
    GR_CORE_MORE = 10
};

/* A type that contains another one (bmojo) puts that one's parameters, tape and states behind its own. What is left for
 * them: every type but bmojo keeps to these. */
enum { GR_INNER_PARAMS = 24, GR_INNER_TAPE = 24, GR_INNER_STATES = 8 };

/** The layer a mixer is built for. Attention and what replaces it get the same. */
typedef struct gr_mixer_spec {
    int   hidden, n_head, n_kv_head, head_dim;
    bool  qk_norm;    /**< attention normalises q and k per head (Qwen3)                     */
    float norm_eps;   /**< of the model's norms                                              */
    int   conv_width; /**< taps of the short convolution; 4 in every published checkpoint    */
    int   chunk;      /**< tokens per chunk of a recurrence                                  */
    bool  neg_eigval; /**< write strength in (0, 2) instead of (0, 1)                        */
    float init_std;   /**< of random projections (config.json initializer_range)             */

    bool mamba2_llama; /**< mamba2: starts as Mamba-in-the-Llama has it: gate not from attention, no norms of B and C */
    int  mamba2_state; /**< mamba2: channels of B and C, which are rows of the state; 0: head_dim */

    int   gka_iterations, gka_decode_iterations; /**< gka: of its solver, over sequences; token by token */
    float gka_ridge;       /**< gka: ridge of its regression, as a share of |H|                    */
    bool  gka_alpha;       /**< gka: a gate mixes query and solution; off: the solution alone      */
    bool  gka_v_conv;      /**< gka: values pass the short convolution                             */
    bool  gka_output_gate; /**< gka: its output gate                                               */
    int   mimo_rank;       /**< mamba3: rows of q, k, v and o per token (MIMO); 0 and 1: one (SISO)       */
    float rope_fraction;   /**< mamba3: part of the state's channels that turn, in [0, 1]               */
    bool  outproj_norm;    /**< mamba3: RMSNorm of each head before the gate                            */

    int  swa_window, swa_sink; /**< tokens a query sees, itself included; and always the document's first so many */
    int  bmojo_window;         /**< tokens a query sees as they are, itself included; then as many faded ones       */
    bool bmojo_tied;           /**< faded tokens pass the same projections as the others; else their own           */
    /** The type that bmojo's faded tokens come from, any that does not attend. kernels/ knows no type by name: whoever
     * reads the configuration resolves the name (src/model/layout.c), and hands the inner type's core on the backend in
     * use to the layer beside the layer's own (gr_mixer_ctx.inner). */
    const struct gr_mixer_def *bmojo_inner;
} gr_mixer_spec;

typedef enum gr_init {
    GR_INIT_ZERO,
    GR_INIT_ONE,
    GR_INIT_NORMAL,  /**< N(0, init_std)                                */
    GR_INIT_DELTA,   /**< identity convolution: the last tap is 1       */
    GR_INIT_A_LOG,   /**< log of uniform A: options a_min, a_max        */
    GR_INIT_DT_BIAS, /**< inverse softplus of log-uniform dt: dt_min, dt_max */
    GR_INIT_SHARE    /**< 1 / dim[1]: what adds up over it is a mean    */
} gr_init;

/** A parameter of a layer. Its full name is model.layers.<i>.<prefix>.<name>. */
typedef struct gr_param_spec {
    char    name[48]; /**< "q_proj.weight", "gdn.q_proj.weight"     */
    int     rank;
    int64_t dim[3];
    gr_init init;
    bool    decay; /**< weight decay applies                     */
} gr_param_spec;

/** What forward keeps for backward, in the arena the caller chose. Indices are private to the type. */
typedef struct gr_tape {
    gr_tensor t[GR_MIXER_TAPE];
} gr_tape;

/** Arguments of a core. Inputs are read, outputs overwritten. Backward reads the forward's inputs, o and aux as well.
 */
typedef struct gr_core_args {
    const gr_seq *seq;
    int           n_head, n_kv_head, k_dim, v_dim, chunk;
    int           n_row;        /**< rows of q, k, v, o per token, [N, n_row, heads, width] then; 0 means 1     */
    int           window, sink; /**< attention: a query sees the last `window` tokens, itself included, and the first
                                     `sink` of its document; window 0: all of them                       */
    bool decode;                /**< attention of one query: k and v [n, G, ..] are a cache, all of which it sees;
                                     so are keys and values among `more`                                 */
    float     scale;            /**< multiplies q k^T                                        */
    int       iterations;       /**< gka: of its solver                                      */
    float     ridge;            /**< gka: of its regression, as a share of |H|               */
    gr_tensor q, k, v;          /**< [N, H, K], [N, G, K], [N, G, V]                         */
    gr_tensor gate[GR_MIXER_GATES]; /**< [N, H] each, as the type declares                       */
    gr_tensor o;                    /**< [N, H, V]                                               */
    gr_tensor aux; /**< by-product backward needs: attention [N, H] log-sum-exp, gka [N, H, K] solutions; or none */
    gr_tensor more[GR_CORE_MORE]; /**< further inputs, as the type declares                          */
    /** Before the first and after the last token; none = zero / unwanted. [0] is [H, K, V], others are [H, ..] as the
     * type declares. state_in enters the first document only. */
    gr_tensor state_in[GR_CORE_STATES], state_out[GR_CORE_STATES];
    gr_tensor d_o;        /**< gradient of o                                           */
    gr_tensor dq, dk, dv; /**< written (=), shaped as q, k, v                          */
    gr_tensor dgate[GR_MIXER_GATES];
    gr_tensor dmore[GR_CORE_MORE];
    /** Gradient from the right (none = zero), to the left (none = unwanted). */
    gr_tensor dstate_out[GR_CORE_STATES], dstate_in[GR_CORE_STATES];
    gr_arena *scratch; /**< for the core's own buffers; it releases what it takes    */
} gr_core_args;

/** A type on one backend. */
typedef struct gr_mixer_core {
    double
        tol; /**< largest max|backend - oracle| / max|oracle| that tests accept; the reason stands beside the value */
    void (*forward)(const gr_core_args *a, gr_stream *s);
    void (*backward)(const gr_core_args *a, gr_stream *s);
} gr_mixer_core;

/** What a layer function gets: its weights, where to put things, and how to compute. */
typedef struct gr_mixer_ctx {
    const gr_ops        *op;
    const gr_mixer_core *core;
    const gr_mixer_core *inner; /**< core of spec->bmojo_inner; NULL where no layer contains another type      */
    const gr_mixer_spec *spec;
    const gr_seq        *seq;
    gr_tensor            rope_cs; /**< [N, D] table of this batch (kernels/backend.h)     */
    const gr_tensor     *w;       /**< parameters in the order of params()               */
    const gr_tensor     *dw;      /**< their gradients (+=); data NULL: frozen            */
    gr_arena            *keep;    /**< tape tensors go here                              */
    gr_arena            *scratch; /**< everything else                                   */
    gr_stream           *stream;
} gr_mixer_ctx;

/** Decoding state of one sequence. The type knows what is in it. */
typedef struct gr_mixer_state {
    gr_tensor t[GR_MIXER_STATES];
} gr_mixer_state;

/** FLOPs (multiply and add count as two) and state, for benchmarks and the planner. */
typedef struct gr_mixer_cost {
    double forward, backward;           /**< FLOPs per token at context length T, projections included   */
    double core_forward, core_backward; /**< the core alone                                     */
    double state_bytes;                 /**< decoding state per sequence at context length T              */
} gr_mixer_cost;

/** An option under the name that hybrid-model-factory has for it. */
typedef struct gr_foreign_option {
    const char *ours;    /**< "gdn_neg_eigval"                                                         */
    const char *theirs;  /**< "allow_neg_eigval"; NULL: they know the default only, others are not exported */
    const char *name[2]; /**< what ours is called when theirs is false, and true; NULL: the same value */
} gr_foreign_option;

/** Definition of a type. */
typedef struct gr_mixer_def {
    const char *name;   /**< in configs and patterns: "gdn"                                      */
    const char *symbol; /**< in hybrid-model-factory's pattern string: "GDN"                     */
    const char *prefix; /**< of its tensors inside a layer: "gdn"                                */
    const char *source; /**< paper and equations                                                 */
    int         gain;   /**< a parameter that y is proportional to: alignment sets its scale     */
    /** Options of hybrid-model-factory's TYPE_config, up to one with `ours` NULL; NULL: none. */
    const gr_foreign_option *foreign;
    bool iterates; /**< its core solves by iteration; a run may choose how often (section `solver`)   */
    bool attends;  /**< it looks at keys itself: no recurrence, so not to be contained in bmojo      */
    bool contains; /**< it contains spec->bmojo_inner                                                    */

    /** Fill `p`, return how many. Pure. */
    int (*params)(const gr_mixer_spec *spec, gr_param_spec p[GR_MIXER_PARAMS]);

    /** [host memory] Overwrite those of `w` that attention determines. w: this type's parameters, already initialised
     * by their gr_init. attn: the replaced attention's, in the order of the "attn" type's params(). */
    void (*from_attention)(const gr_mixer_spec *spec, float *const *w, const float *const *attn);

    /** y = mixer(x). tape NULL: nothing is kept (inference). */
    void (*forward)(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape);

    /** dx = (none: unwanted) and dw +=, given dy and what forward kept. x is forward's input. */
    void (*backward)(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape);

    /** Shapes of the decoding state for up to `capacity` tokens; returns how many tensors. state->t[i].data stays NULL.
     */
    int (*state_shape)(const gr_mixer_spec *spec, int64_t capacity, gr_mixer_state *state);

    /** One token: y [1, hidden] from x [1, hidden] at position `pos`, updating the state. c->rope_cs is [1, D] for that
     * position. */
    void (*step)(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos);

    gr_mixer_cost (*cost)(const gr_mixer_spec *spec, int64_t context);
} gr_mixer_def;

GR_C_END
#endif
