#include "data_pipeline/bpe.h"
#include "data_pipeline/utf8.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    BPE_SHORT = 32,       /* symbols; up to here a scan of all pairs beats the heap (measured)        */
    INLINE_KEY = 16,      /* bytes of a word kept in its cache entry                                  */
    INLINE_IDS = 3,       /* ids kept in the entry                                                    */
    LONGEST_CACHED = 64,  /* bytes                                                                    */
    CACHE_SETS = 1 << 15, /* two entries each: 4 MiB, about what text re-uses and an L2 and L3 hold   */
    POOL_BYTES = 4 << 20  /* keys and ids that do not fit their entry; when full, the cache restarts  */
};

static const uint32_t NO_RANK = UINT32_MAX;

typedef struct slot { /* a merge; empty when pair is NO_PAIR */
    uint64_t pair;
    uint32_t rank, merged;
} slot;
#define NO_PAIR UINT64_MAX

typedef struct entry { /* what a word became; empty when n_key is 0 */
    uint64_t key[2];   /* its bytes, zero-padded; or their hash and place in the pool */
    uint8_t  n_key, n_id;
    uint16_t unused;
    uint32_t id[INLINE_IDS]; /* or, when n_id > INLINE_IDS, id[0] is a place in the pool */
} entry;
_Static_assert(sizeof(entry) == 32, "two entries share a cache line");

typedef struct symbol { /* one element of a long word */
    uint32_t id;
    int32_t  prev, next; /* -1: none */
    bool     gone;
} symbol;

typedef struct candidate { /* a merge that may apply at symbol `at` */
    uint32_t rank, merged;
    int32_t  at;
} candidate;

struct gr_bpe {
    slot     *merge; /* open addressing */
    uint64_t  merge_mask;
    int64_t   n_id; /* ids are below */
    int64_t   cap_id;
    int64_t  *text_at; /* [cap_id]: 1 + place in `text`; 0: hole */
    int32_t  *text_n;
    gr_bytes  text;
    uint32_t *name; /* hash of vocabulary forms: 1 + id */
    uint64_t  name_mask;
    int64_t   longest;      /* bytes of the longest vocabulary form */
    int64_t   byte_id[256]; /* GR_BPE_NONE: dropped */
    bool      whole_words;
    int64_t   n_lost; /* bytes dropped so far */

    entry   *cache;
    uint8_t *pool;
    uint32_t n_pool;

    uint32_t  *letter; /* scratch of long words */
    symbol    *sym;
    candidate *heap;
    int64_t    n_sym;
    gr_bytes   spelling; /* scratch of whole_word */
};

/* ---- the byte alphabet ----------------------------------------------------------------------- */

/* Printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 + their index. */
static bool plain(int b)
{
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

uint32_t gr_byte_to_letter(int byte)
{
    uint32_t n = 0;

    if (plain(byte)) return (uint32_t)byte;
    for (int b = 0; b < byte; b++) n += !plain(b);
    return 0x100 + n;
}

int gr_letter_to_byte(uint32_t c)
{
    if (c < 0x100) return plain((int)c) ? (int)c : -1;
    for (int b = 0; b < 256; b++)
        if (!plain(b) && c-- == 0x100) return b;
    return -1;
}

/* ---- building --------------------------------------------------------------------------------- */

static uint64_t power_above(int64_t n)
{
    uint64_t p = 16;

    while (p < 2 * (uint64_t)n) p *= 2;
    return p;
}

gr_status gr_bpe_open(gr_bpe **out_m, int64_t n_token, int64_t n_merge)
{
    gr_bpe   *m = NULL;
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&m, 1, sizeof *m, "tokenizer model"));
    m->merge_mask = power_above(n_merge) - 1;
    m->name_mask = power_above(n_token) - 1;
    GR_TRY(gr_alloc(&m->merge, m->merge_mask + 1, sizeof *m->merge, "merges"));
    for (uint64_t i = 0; i <= m->merge_mask; i++) m->merge[i].pair = NO_PAIR;
    GR_TRY(gr_alloc(&m->name, m->name_mask + 1, sizeof *m->name, "vocabulary"));
    GR_TRY(gr_alloc(&m->cache, 2 * CACHE_SETS, sizeof *m->cache, "word cache"));
    GR_TRY(gr_alloc(&m->pool, POOL_BYTES, 1, "word cache"));
    *out_m = m;
    m = NULL;
out:
    gr_bpe_close(&m);
    return st;
}

void gr_bpe_close(gr_bpe **mp)
{
    gr_bpe *m = *mp;

    if (!m) return;
    gr_free(&m->merge);
    gr_free(&m->text_at);
    gr_free(&m->text_n);
    gr_bytes_close(&m->text);
    gr_free(&m->name);
    gr_free(&m->cache);
    gr_free(&m->pool);
    gr_bytes_close(&m->spelling);
    gr_free(&m->letter);
    gr_free(&m->sym);
    gr_free(&m->heap);
    gr_free(mp);
}

const char *gr_bpe_text(const gr_bpe *m, uint32_t id, int64_t *n)
{
    if (id >= m->n_id || !m->text_at[id]) return NULL;
    *n = m->text_n[id];
    return m->text.v + m->text_at[id] - 1;
}

/* Where `text` is, or where it would go, in the hash of names. */
static uint64_t name_slot(const gr_bpe *m, const char *text, int64_t n)
{
    uint64_t at = XXH3_64bits(text, (size_t)n) & m->name_mask;

    for (; m->name[at]; at = (at + 1) & m->name_mask) {
        int64_t     len = 0;
        const char *has = gr_bpe_text(m, m->name[at] - 1, &len);
        if (len == n && !memcmp(has, text, (size_t)n)) break;
    }
    return at;
}

gr_status gr_bpe_add_token(gr_bpe *m, uint32_t id, const char *text, int64_t n)
{
    gr_status      st = GR_OK;
    const uint64_t at = name_slot(m, text, n);

    if (m->name[at] || (id < m->n_id && m->text_at[id])) return GR_ERR_INPUT;
    if (id >= m->cap_id) {
        const int64_t cap = 2 * (int64_t)id + 64;
        GR_TRY(gr_realloc(&m->text_at, (uint64_t)cap, sizeof *m->text_at, "vocabulary"));
        GR_TRY(gr_realloc(&m->text_n, (uint64_t)cap, sizeof *m->text_n, "vocabulary"));
        m->cap_id = cap;
    }
    if (id >= m->n_id) m->n_id = (int64_t)id + 1;
    m->text_at[id] = m->text.n + 1;
    m->text_n[id] = (int32_t)n;
    if (n > m->longest) m->longest = n;
    GR_TRY(gr_bytes_push(&m->text, text, n));
    m->name[at] = id + 1;
out:
    return st;
}

int64_t gr_bpe_find(const gr_bpe *m, const char *text, int64_t n)
{
    return (int64_t)m->name[name_slot(m, text, n)] - 1;
}

static uint64_t merge_home(const gr_bpe *m, uint64_t pair)
{
    return (pair * UINT64_C(0x9E3779B97F4A7C15)) >> 20 & m->merge_mask;
}

gr_status gr_bpe_add_merge(gr_bpe *m, uint32_t rank, uint32_t left, uint32_t right, uint32_t merged)
{
    const uint64_t pair = (uint64_t)left << 32 | right;
    uint64_t       at = merge_home(m, pair);

    while (m->merge[at].pair != NO_PAIR && m->merge[at].pair != pair) at = (at + 1) & m->merge_mask;
    m->merge[at] = (slot){pair, rank, merged};
    return GR_OK;
}

/* Control characters that are no white space, bytes that UTF-8 never has, and the first bytes of planes 4 to
 * 11, where no character is assigned. Vocabularies trained without these 256 letters exist (SmolLM's). */
static bool expendable(int b)
{
    const bool control = b < '\t' || (b > '\r' && b < ' ') || b == 0x7F;

    return control || b == 0xC0 || b == 0xC1 || b == 0xF1 || b == 0xF2 || b >= 0xF5;
}

gr_status gr_bpe_seal(gr_bpe *m, bool whole_words, int *missing)
{
    for (int b = 0; b < 256; b++) {
        char      letter[4];
        const int n = gr_utf8_encode(gr_byte_to_letter(b), letter);

        m->byte_id[b] = gr_bpe_find(m, letter, n);
        *missing = b;
        if (m->byte_id[b] < 0 && !expendable(b)) return GR_ERR_INPUT;
    }
    m->whole_words = whole_words;
    return GR_OK;
}

int64_t gr_bpe_lost(const gr_bpe *m)
{
    return m->n_lost;
}

/* ---- merging ---------------------------------------------------------------------------------- */

static const slot *find_merge(const gr_bpe *m, uint32_t left, uint32_t right)
{
    const uint64_t pair = (uint64_t)left << 32 | right;
    uint64_t       at = merge_home(m, pair);

    while (m->merge[at].pair != NO_PAIR) {
        if (m->merge[at].pair == pair) return &m->merge[at];
        at = (at + 1) & m->merge_mask;
    }
    return NULL;
}

/* The letters of a word of n bytes -> id; how many there are. A byte without a token leaves no gap: its neighbours may
 * merge, as in the reference. */
static int64_t spell(gr_bpe *m, const unsigned char *word, int64_t n, uint32_t *id)
{
    int64_t k = 0;

    for (int64_t i = 0; i < n; i++)
        if (m->byte_id[word[i]] >= 0) id[k++] = (uint32_t)m->byte_id[word[i]];
    m->n_lost += n - k;
    return k;
}

/* At most BPE_SHORT symbols: keep every pair's rank, take the lowest, close the gap. */
static gr_status merge_short(gr_bpe *m, const unsigned char *word, int n, gr_ids *ids)
{
    uint32_t  id[BPE_SHORT], rank[BPE_SHORT], merged[BPE_SHORT];
    gr_status st = GR_OK;

    n = (int)spell(m, word, n, id);
    for (int i = 0; i + 1 < n; i++) {
        const slot *s = find_merge(m, id[i], id[i + 1]);
        rank[i] = s ? s->rank : NO_RANK;
        merged[i] = s ? s->merged : 0;
    }
    while (n > 1) {
        int best = 0;

        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        id[best] = merged[best];
        for (int i = best + 1; i + 1 < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
            merged[i] = merged[i + 1];
        }
        n--;
        for (int i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const slot *s = find_merge(m, id[i], id[i + 1]);
            rank[i] = s ? s->rank : NO_RANK;
            merged[i] = s ? s->merged : 0;
        }
    }
    GR_TRY(gr_ids_reserve(ids, n));
    memcpy(ids->v + ids->n, id, (size_t)n * sizeof *id);
    ids->n += n;
out:
    return st;
}

static bool sooner(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(candidate *heap, int64_t *n, candidate c)
{
    int64_t i = (*n)++;

    for (; i > 0 && sooner(c, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
}

static candidate heap_pop(candidate *heap, int64_t *n)
{
    const candidate top = heap[0], last = heap[--(*n)];
    int64_t         i = 0;

    for (int64_t child = 1; child < *n; child = 2 * i + 1) {
        if (child + 1 < *n && sooner(heap[child + 1], heap[child])) child++;
        if (!sooner(heap[child], last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void propose(gr_bpe *m, int64_t *n_heap, int32_t at)
{
    const slot *s = find_merge(m, m->sym[at].id, m->sym[m->sym[at].next].id);

    if (s) heap_push(m->heap, n_heap, (candidate){s->rank, s->merged, at});
}

/* Any length. Candidates that other merges have overtaken are recognised when they surface: their
 * pair no longer merges into what they promised. */
static gr_status merge_long(gr_bpe *m, const unsigned char *word, int64_t n, gr_ids *ids)
{
    gr_status st = GR_OK;
    int64_t   n_heap = 0;

    GR_CHECK(n < INT32_MAX / 4, GR_ERR_INPUT, "a single word of %lld bytes is more than Graft tokenizes", (long long)n);
    if (m->n_sym < n) {
        /* n - 1 pairs at first, and each of at most n - 1 merges proposes two. */
        GR_TRY(gr_realloc(&m->letter, (uint64_t)n, sizeof *m->letter, "long word"));
        GR_TRY(gr_realloc(&m->sym, (uint64_t)n, sizeof *m->sym, "long word"));
        GR_TRY(gr_realloc(&m->heap, (uint64_t)(3 * n), sizeof *m->heap, "long word"));
        m->n_sym = n;
    }
    n = spell(m, word, n, m->letter);
    if (n == 0) goto out;
    for (int64_t i = 0; i < n; i++)
        m->sym[i] = (symbol){m->letter[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1, false};
    for (int64_t i = 0; i + 1 < n; i++) propose(m, &n_heap, (int32_t)i);
    while (n_heap > 0) {
        const candidate c = heap_pop(m->heap, &n_heap);
        symbol *const   s = &m->sym[c.at];
        const slot     *now;

        if (s->gone || s->next < 0) continue;
        now = find_merge(m, s->id, m->sym[s->next].id);
        if (!now || now->merged != c.merged) continue;
        m->sym[s->next].gone = true;
        s->id = c.merged;
        s->next = m->sym[s->next].next;
        if (s->next >= 0) m->sym[s->next].prev = c.at;
        if (s->prev >= 0) propose(m, &n_heap, s->prev);
        if (s->next >= 0) propose(m, &n_heap, c.at);
    }
    for (int32_t i = 0; i >= 0; i = m->sym[i].next) GR_TRY(gr_ids_push(ids, m->sym[i].id));
out:
    return st;
}

/* `ignore_merges`: a word that is in the vocabulary as it stands. */
static gr_status whole_word(gr_bpe *m, const unsigned char *word, int64_t n, int64_t *id)
{
    gr_status st = GR_OK;

    *id = GR_BPE_NONE;
    if (n > m->longest) goto out;
    m->spelling.n = 0;
    for (int64_t i = 0; i < n; i++) {
        char      letter[4];
        const int one = gr_utf8_encode(gr_byte_to_letter(word[i]), letter);
        GR_TRY(gr_bytes_push(&m->spelling, letter, one));
    }
    *id = gr_bpe_find(m, m->spelling.v, m->spelling.n);
out:
    return st;
}

static gr_status encode_uncached(gr_bpe *m, const char *word, int64_t n, gr_ids *ids)
{
    const unsigned char *bytes = (const unsigned char *)word;

    gr_status st = GR_OK;
    int64_t   id = GR_BPE_NONE;

    if (m->whole_words) GR_TRY(whole_word(m, bytes, n, &id));
    if (id >= 0)
        GR_TRY(gr_ids_push(ids, (uint32_t)id));
    else if (n <= BPE_SHORT)
        GR_TRY(merge_short(m, bytes, (int)n, ids));
    else
        GR_TRY(merge_long(m, bytes, n, ids));
out:
    return st;
}

/* ---- the cache -------------------------------------------------------------------------------- */

/* First 16 bytes of the word, zero-padded. */
static inline void load_key(const char *word, int64_t n, int64_t slack, uint64_t key[2])
{
    if (n + slack >= INLINE_KEY) {
        memcpy(key, word, INLINE_KEY);
        if (n < 8) {
            key[0] &= (UINT64_C(1) << 8 * n) - 1;
            key[1] = 0;
        } else if (n < INLINE_KEY) {
            key[1] &= (UINT64_C(1) << 8 * (n - 8)) - 1;
        }
    } else {
        key[0] = key[1] = 0;
        memcpy(key, word, (size_t)n);
    }
}

static inline uint64_t mix(const uint64_t key[2], int64_t n)
{
    const __uint128_t x =
        (__uint128_t)(key[0] ^ UINT64_C(0x9E3779B97F4A7C15) * (uint64_t)n) * (key[1] ^ UINT64_C(0xD6E8FEB86659FD93));
    const uint64_t y = ((uint64_t)x ^ (uint64_t)(x >> 64)) + key[0] * UINT64_C(0xA24BAED4963EE407);
    return y ^ y >> 32;
}

static bool same_word(const gr_bpe *m, const entry *e, const uint64_t key[2], const char *word, int64_t n)
{
    if (e->n_key != n || e->key[0] != key[0]) return false;
    if (n <= INLINE_KEY) return e->key[1] == key[1];
    return !memcmp(m->pool + e->key[1], word, (size_t)n);
}

static void remember(gr_bpe *m, entry *set, const uint64_t key[2], const char *word, int64_t n, const uint32_t *id,
                     int64_t n_id)
{
    entry         e = {{key[0], key[1]}, (uint8_t)n, (uint8_t)n_id, 0, {0}};
    const int64_t need = (n > INLINE_KEY ? n : 0) + (n_id > INLINE_IDS ? 4 * n_id : 0);

    if (m->n_pool + need > POOL_BYTES) {
        memset(m->cache, 0, 2 * CACHE_SETS * sizeof *m->cache);
        m->n_pool = 0;
    }
    if (n > INLINE_KEY) {
        e.key[1] = m->n_pool;
        memcpy(m->pool + m->n_pool, word, (size_t)n);
        m->n_pool += (uint32_t)n;
    }
    if (n_id > INLINE_IDS) {
        e.id[0] = m->n_pool;
        memcpy(m->pool + m->n_pool, id, (size_t)(4 * n_id));
        m->n_pool += (uint32_t)(4 * n_id);
    } else {
        memcpy(e.id, id, (size_t)(4 * n_id));
    }
    set[1] = set[0]; /* the newer of the two stays */
    set[0] = e;
}

gr_status gr_bpe_encode(gr_bpe *m, const char *word, int64_t n, int64_t slack, gr_ids *ids)
{
    gr_status st = GR_OK;
    uint64_t  key[2], hash;
    entry    *set;
    int64_t   first = ids->n, lost;

    if (n > LONGEST_CACHED) return encode_uncached(m, word, n, ids);
    load_key(word, n, slack, key);
    if (n > INLINE_KEY) {
        key[0] = XXH3_64bits(word, (size_t)n);
        key[1] = 0;
        hash = key[0];
    } else {
        hash = mix(key, n);
    }
    set = m->cache + 2 * (hash & (CACHE_SETS - 1));
    for (int i = 0; i < 2; i++) {
        const entry *e = &set[i];
        if (!same_word(m, e, key, word, n)) continue;
        if (ids->cap - ids->n < LONGEST_CACHED) GR_TRY(gr_ids_reserve(ids, LONGEST_CACHED));
        if (e->n_id <= INLINE_IDS) {
            memcpy(ids->v + ids->n, e->id, sizeof e->id); /* all three: cheaper than n_id of them */
        } else {
            memcpy(ids->v + ids->n, m->pool + e->id[0], 4 * (size_t)e->n_id);
        }
        ids->n += e->n_id;
        goto out;
    }
    lost = m->n_lost;
    GR_TRY(encode_uncached(m, word, n, ids));
    if (m->n_lost == lost) /* else it is counted again each time */
        remember(m, set, key, word, n, ids->v + first, ids->n - first);
out:
    return st;
}
