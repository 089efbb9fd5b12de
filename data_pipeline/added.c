#include "data_pipeline/added.h"
#include "data_pipeline/utf8.h"

typedef struct node { /* of the trie; node 0 is the root, and as a link 0 means none */
    int32_t child, sibling;
    int32_t token; /* index + 1; 0: no pattern ends here */
    uint8_t byte;
} node;

struct gr_added_set {
    node     *nodes;
    gr_added *token;
    int64_t   n_node, cap_node, n_token, cap_token;
    bool      begins[256]; /* some pattern begins with this byte */
};

gr_status gr_added_open(gr_added_set **out_s)
{
    gr_added_set *s = NULL;
    gr_status     st = GR_OK;

    GR_TRY(gr_alloc(&s, 1, sizeof *s, "added tokens"));
    s->cap_node = 64;
    s->n_node = 1;
    GR_TRY(gr_alloc(&s->nodes, (uint64_t)s->cap_node, sizeof *s->nodes, "added tokens"));
    *out_s = s;
    s = NULL;
out:
    gr_added_close(&s);
    return st;
}

void gr_added_close(gr_added_set **s)
{
    if (!*s) return;
    gr_free(&(*s)->nodes);
    gr_free(&(*s)->token);
    gr_free(s);
}

static int32_t child_of(const gr_added_set *s, int32_t at, uint8_t byte)
{
    int32_t c = s->nodes[at].child;

    while (c && s->nodes[c].byte != byte) c = s->nodes[c].sibling;
    return c;
}

gr_status gr_added_push(gr_added_set *s, const char *pattern, int64_t n, gr_added token)
{
    gr_status st = GR_OK;
    int32_t   at = 0;

    if (s->n_node + n > s->cap_node) {
        s->cap_node = 2 * (s->n_node + n);
        GR_TRY(gr_realloc(&s->nodes, (uint64_t)s->cap_node, sizeof *s->nodes, "added tokens"));
    }
    if (s->n_token == s->cap_token) {
        s->cap_token = 2 * s->n_token + 16;
        GR_TRY(gr_realloc(&s->token, (uint64_t)s->cap_token, sizeof *s->token, "added tokens"));
    }
    for (int64_t i = 0; i < n; i++) {
        const uint8_t byte = (uint8_t)pattern[i];
        int32_t       next = child_of(s, at, byte);

        if (!next) {
            next = (int32_t)s->n_node++;
            s->nodes[next] = (node){0, s->nodes[at].child, 0, byte};
            s->nodes[at].child = next;
        }
        at = next;
    }
    if (s->nodes[at].token) return GR_ERR_INPUT;
    s->token[s->n_token++] = token;
    s->nodes[at].token = (int32_t)s->n_token;
    s->begins[(uint8_t)pattern[0]] = true;
out:
    return st;
}

/* Longest pattern that begins at text[at]; returns its token or NULL. */
static const gr_added *match_at(const gr_parts *p, int64_t at, int64_t *end)
{
    const gr_added *found = NULL;
    int32_t         here = 0;

    for (int64_t i = at; i < p->n; i++) {
        here = child_of(p->set, here, (uint8_t)p->text[i]);
        if (!here) break;
        if (p->set->nodes[here].token) {
            found = &p->set->token[p->set->nodes[here].token - 1];
            *end = i + 1;
        }
    }
    return found;
}

static bool is_word(const gr_parts *p, int64_t at)
{
    int length;

    return p->unicode->cls[gr_utf8_decode(p->text + at, &length)] & GR_CLASS_WORD;
}

static bool is_space(const gr_parts *p, int64_t at, int *length)
{
    return gr_is_space(p->unicode, gr_utf8_decode(p->text + at, length));
}

gr_parts gr_parts_of(const gr_added_set *s, const gr_unicode *u, const char *text, int64_t n)
{
    return (gr_parts){s, u, text, n, 0, 0, {0, 0, -1}};
}

bool gr_parts_next(gr_parts *p, gr_part *part)
{
    const bool *const begins = p->set->begins;

    if (p->pending.id >= 0) {
        *part = p->pending;
        p->pending.id = -1;
        return true;
    }
    while (p->set->n_token && p->search < p->n) {
        const gr_added *token = NULL;
        int64_t         first = p->search, end = 0;
        int             length = 0;

        while (first < p->n && !(begins[(uint8_t)p->text[first]] && (token = match_at(p, first, &end)))) first++;
        p->search = token ? end : p->n;
        if (!token) break;
        if (token->single_word &&
            ((first > 0 && is_word(p, gr_utf8_before(p->text, first))) || (end < p->n && is_word(p, end))))
            continue;
        if (token->lstrip) {
            while (first > 0 && is_space(p, gr_utf8_before(p->text, first), &length))
                first = gr_utf8_before(p->text, first);
            if (first < p->from) first = p->from;
        }
        if (token->rstrip)
            while (end < p->n && is_space(p, end, &length)) end += length;
        p->pending = (gr_part){first, end, token->id};
        if (p->from < first) {
            *part = (gr_part){p->from, first, -1};
            p->from = end;
            return true;
        }
        p->from = end;
        *part = p->pending;
        p->pending.id = -1;
        return true;
    }
    if (p->from == p->n) return false;
    *part = (gr_part){p->from, p->n, -1};
    p->from = p->n;
    return true;
}
