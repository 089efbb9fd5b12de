#include "config/room.h"
#include "util/mem.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

enum {
    LIMIT_BYTES = 1 << 20,    /* of a file                                        */
    RESOLVED_BYTES = 1 << 26, /* of text printed by us: lists and variables grow  */
    DEPTH = 8,                /* of bases                                         */
    NAME_MAX_BYTES = 64
};

/* Events are taken one by one, so what is not expected is refused before libyaml goes on with it. */
typedef struct reader {
    gr_config           *cfg;
    const gr_program    *program;
    const char          *path;   /* leads the messages                                              */
    const char          *text;   /* the whole file: to count lines where libyaml does not            */
    const struct reader *parent; /* the file whose `base` this is, or NULL                           */
    int                  depth;  /* files above this one                                            */
    dev_t                dev;    /* which file this is, however it is spelt                         */
    ino_t                ino;
    bool                 resolved; /* text of our own making: no base                                 */
    int                  section_line[GR_N_SECTIONS], key_line[GR_N_KEYS]; /* where given; 0: not yet  */
    yaml_parser_t        parser;
    yaml_event_t         event;
    char                 where[GR_WHERE_MAX];
} reader;

static gr_status read_file(gr_config *cfg, const gr_program *program, const char *path, const reader *parent);

/* where = "path:line" of the current event */
static const char *here(reader *r)
{
    snprintf(r->where, sizeof r->where, "%s:%zu", r->path, r->event.start_mark.line + 1);
    return r->where;
}

static gr_status broken(const reader *r)
{
    gr_status            st = GR_OK;
    const yaml_parser_t *p = &r->parser;
    const char          *why = p->problem ? p->problem : "not YAML";

    GR_CHECK(p->error != YAML_MEMORY_ERROR, GR_ERR_NOMEM, "%s: libyaml is out of memory", r->path);
    if (p->error == YAML_READER_ERROR) { /* encoding: libyaml gives the byte only */
        int line = 1;
        for (size_t i = 0; i < p->problem_offset && r->text[i]; i++) line += r->text[i] == '\n';
        GR_FAIL(GR_ERR_CONFIG, "%s:%d: byte %zu: %s", r->path, line, p->problem_offset, why);
    }
    GR_FAIL(GR_ERR_CONFIG, "%s:%zu:%zu: %s%s%s", r->path, p->problem_mark.line + 1, p->problem_mark.column + 1, why,
            p->context ? " " : "", p->context ? p->context : "");
out:
    return st;
}

static gr_status next(reader *r)
{
    gr_status           st = GR_OK;
    const yaml_event_t *e = &r->event;
    const yaml_char_t  *anchor = NULL, *tag = NULL;

    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) GR_TRY(broken(r));
    switch (e->type) {
    case YAML_ALIAS_EVENT: anchor = e->data.alias.anchor; break;
    case YAML_SCALAR_EVENT: anchor = e->data.scalar.anchor, tag = e->data.scalar.tag; break;
    case YAML_SEQUENCE_START_EVENT: anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag; break;
    case YAML_MAPPING_START_EVENT: anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag; break;
    default: break;
    }
    GR_CHECK(!anchor && !tag, GR_ERR_CONFIG, "%s: anchors (&), aliases (*) and tags (!) are not used here", here(r));
out:
    return st;
}

static const char *kind_of(const reader *r)
{
    switch (r->event.type) {
    case YAML_SCALAR_EVENT: return "a single value";
    case YAML_SEQUENCE_START_EVENT: return "a list";
    case YAML_MAPPING_START_EVENT: return "a mapping";
    default: return "the end";
    }
}

static const char *text_of(const reader *r)
{
    return (const char *)r->event.data.scalar.value;
}

static bool is_plain(const reader *r)
{
    return r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool is_null(const reader *r)
{
    static const char *const null[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; is_plain(r) && i < sizeof null / sizeof null[0]; i++)
        if (!strcmp(text_of(r), null[i])) return true;
    return false;
}

/* The current event must be a scalar without a NUL inside (it could not be printed or passed on). */
static gr_status want_scalar(reader *r, const char *where, const char *expected)
{
    gr_status st = GR_OK;

    GR_CHECK(r->event.type == YAML_SCALAR_EVENT, GR_ERR_CONFIG, "%s: found %s, expected %s", where, kind_of(r),
             expected);
    GR_CHECK(strlen(text_of(r)) == r->event.data.scalar.length, GR_ERR_CONFIG, "%s: a NUL character", where);
out:
    return st;
}

/* A name of a section or key; `dst` keeps it while the parser goes on. */
static gr_status want_name(reader *r, char dst[NAME_MAX_BYTES], const char *expected)
{
    gr_status st = want_scalar(r, here(r), expected);

    if (st == GR_OK) snprintf(dst, NAME_MAX_BYTES, "%.*s", NAME_MAX_BYTES - 1, text_of(r));
    return st;
}

/* "path:line: section.key", with " = value" for a scalar */
static void at_value(reader *r, const gr_key *key)
{
    char clip[GR_CLIP_MAX];

    if (r->event.type == YAML_SCALAR_EVENT)
        snprintf(r->where, sizeof r->where, "%s:%zu: %s = %s", r->path, r->event.start_mark.line + 1, key->path,
                 gr_clip(clip, text_of(r)));
    else
        snprintf(r->where, sizeof r->where, "%s:%zu: %s", r->path, r->event.start_mark.line + 1, key->path);
}

/* A scalar that fits the type of the key as far as YAML sees it. */
static gr_status want_value(reader *r, const gr_key *key)
{
    gr_status   st = GR_OK;
    const bool  text = key->type == GR_KEY_STR || key->type == GR_KEY_STRS || key->type == GR_KEY_ENUM;
    const char *expected = gr_type_name(key->type == GR_KEY_STRS ? GR_KEY_STR : key->type);

    GR_TRY(want_scalar(r, r->where, expected));
    GR_CHECK(!is_null(r), GR_ERR_CONFIG, "%s: found nothing, expected %s%s", r->where, expected,
             text ? " (an empty one is written \"\")" : "");
    GR_CHECK(text || is_plain(r), GR_ERR_CONFIG, "%s: found a quoted string, expected %s", r->where, expected);
out:
    return st;
}

/* From the current event, the start of a list, to its end. `where`, when given, is where all of it stands. */
static gr_status read_list(reader *r, const gr_key *key, const char *where)
{
    gr_status st = GR_OK;

    gr_value_clear(r->cfg, key);
    for (;;) {
        GR_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) goto out;
        at_value(r, key);
        if (where) snprintf(r->where, sizeof r->where, "%s", where);
        GR_TRY(want_value(r, key));
        GR_TRY(gr_value_append(r->cfg, key, text_of(r), r->where));
    }
out:
    return st;
}

static gr_status read_section(reader *r, const gr_section *section)
{
    gr_status     st = GR_OK;
    const gr_key *key = NULL;
    char          name[NAME_MAX_BYTES];

    GR_TRY(next(r));
    if (is_null(r)) goto out; /* all its keys are commented out */
    GR_CHECK(r->event.type == YAML_MAPPING_START_EVENT, GR_ERR_CONFIG, "%s: section '%s': found %s, expected keys",
             here(r), section->name, kind_of(r));
    for (;;) {
        GR_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) goto out;
        GR_TRY(want_name(r, name, "the name of a key"));
        GR_TRY(gr_key_find(&key, r->program, section->name, name, here(r)));
        int *line = &r->key_line[key - gr_keys];
        GR_CHECK(*line == 0, GR_ERR_CONFIG, "%s: %s: given twice (first on line %d)", here(r), key->path, *line);
        *line = (int)r->event.start_mark.line + 1;

        GR_TRY(next(r));
        at_value(r, key);
        if (key->type == GR_KEY_STRS && r->event.type == YAML_SEQUENCE_START_EVENT) {
            GR_TRY(read_list(r, key, NULL));
        } else {
            GR_TRY(want_value(r, key));
            GR_TRY(gr_value_set(r->cfg, key, text_of(r), r->where));
        }
    }
out:
    return st;
}

static gr_status read_base(reader *r, bool first)
{
    gr_status st = GR_OK;
    char      dir[GR_PATH_MAX], path[GR_PATH_MAX], *target = NULL;

    GR_CHECK(!r->resolved, GR_ERR_CONFIG, "%s: base: a resolved configuration has none", here(r));
    GR_CHECK(first, GR_ERR_CONFIG, "%s: base: must come first, before all sections", here(r));
    GR_TRY(next(r));
    GR_TRY(want_scalar(r, here(r), "the path of the base"));
    GR_CHECK(*text_of(r), GR_ERR_CONFIG, "%s: base: found nothing, expected a path", here(r));
    GR_TRY(gr_expand(&target, text_of(r), here(r)));
    GR_TRY(gr_dirname(dir, r->path));
    if (*target == '/' || !strcmp(dir, "."))
        GR_TRY(gr_path(path, "%s", target));
    else
        GR_TRY(gr_path(path, "%s/%s", dir, target));
    GR_CHECK(gr_exists(path), GR_ERR_CONFIG, "%s: base: %s does not exist", here(r), path);
    GR_CHECK(r->depth < DEPTH, GR_ERR_CONFIG, "%s: base: more than %d files deep", here(r), DEPTH);
    here(r); /* where a cycle is reported */
    GR_TRY(read_file(r->cfg, r->program, path, r));
out:
    gr_free(&target);
    return st;
}

static gr_status read_document(reader *r)
{
    gr_status         st = GR_OK;
    const gr_section *section = NULL;
    char              name[NAME_MAX_BYTES];

    GR_TRY(next(r));
    if (is_null(r)) goto out;
    GR_CHECK(r->event.type == YAML_MAPPING_START_EVENT, GR_ERR_CONFIG, "%s: found %s, expected sections (run: ...)",
             here(r), kind_of(r));
    for (bool first = true;; first = false) {
        GR_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) goto out;
        GR_TRY(want_name(r, name, "the name of a section"));
        if (!strcmp(name, "base")) {
            GR_TRY(read_base(r, first));
            continue;
        }
        GR_TRY(gr_section_find(&section, r->program, r->parent != NULL, name, here(r)));
        int *line = &r->section_line[section - gr_sections];
        GR_CHECK(*line == 0, GR_ERR_CONFIG, "%s: section '%s': given twice (first on line %d)", here(r), name, *line);
        *line = (int)r->event.start_mark.line + 1;
        GR_TRY(read_section(r, section));
    }
out:
    return st;
}

static gr_status parser_open(reader *r, uint64_t n)
{
    gr_status st = GR_OK;

    GR_CHECK(yaml_parser_initialize(&r->parser), GR_ERR_NOMEM, "%s: libyaml is out of memory", r->path);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)r->text, n);
    GR_TRY(next(r)); /* the start of the stream */
    GR_TRY(next(r)); /* the first document, or the end */
out:
    return st;
}

static void parser_close(reader *r)
{
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
}

static gr_status read_text(reader *r, uint64_t n)
{
    gr_status st = GR_OK;

    GR_TRY(parser_open(r, n));
    if (r->event.type == YAML_STREAM_END_EVENT) goto out; /* nothing but comments */
    GR_TRY(read_document(r));
    GR_TRY(next(r)); /* the end of the document */
    GR_TRY(next(r));
    GR_CHECK(r->event.type == YAML_STREAM_END_EVENT, GR_ERR_CONFIG, "%s: a second document", here(r));
out:
    parser_close(r);
    return st;
}

static gr_status read_file(gr_config *cfg, const gr_program *program, const char *path, const reader *parent)
{
    gr_status   st = GR_OK;
    reader     *r = NULL;
    char       *text = NULL;
    uint64_t    n = 0;
    struct stat sb;

    GR_TRY(gr_alloc(&r, 1, sizeof *r, "reader of a configuration"));
    GR_CHECK(!stat(path, &sb), GR_ERR_INPUT, "%s: %s", path, strerror(errno));
    for (const reader *up = parent; up; up = up->parent)
        GR_CHECK(up->dev != sb.st_dev || up->ino != sb.st_ino, GR_ERR_CONFIG, "%s: base: %s inherits from itself",
                 parent->where, path);
    GR_TRY(gr_read_file(path, LIMIT_BYTES, &text, &n));
    r->cfg = cfg;
    r->program = program;
    r->path = path;
    r->text = text;
    r->parent = parent;
    r->depth = parent ? parent->depth + 1 : 0;
    r->dev = sb.st_dev;
    r->ino = sb.st_ino;
    GR_TRY(read_text(r, n));
out:
    gr_free(&text);
    gr_free(&r);
    return st;
}

gr_status gr_read_yaml(gr_config *cfg, const gr_program *program, const char *path)
{
    return read_file(cfg, program, path, NULL);
}

gr_status gr_read_yaml_text(gr_config *cfg, const gr_program *program, const char *name, const char *text, uint64_t n)
{
    gr_status st = GR_OK;
    reader   *r = NULL;

    GR_CHECK(n <= RESOLVED_BYTES, GR_ERR_CONFIG, "%s: %llu bytes, at most %d are read", name, (unsigned long long)n,
             RESOLVED_BYTES);
    GR_TRY(gr_alloc(&r, 1, sizeof *r, "reader of a configuration"));
    r->cfg = cfg;
    r->program = program;
    r->path = name;
    r->text = text;
    r->resolved = true;
    GR_TRY(read_text(r, n));
out:
    gr_free(&r);
    return st;
}

gr_status gr_read_yaml_list(gr_config *cfg, const gr_key *key, const char *text, const char *where)
{
    gr_status st = GR_OK;
    reader   *r = NULL;

    GR_TRY(gr_alloc(&r, 1, sizeof *r, "reader of a list"));
    r->cfg = cfg;
    r->path = where;
    r->text = text;
    GR_TRY(parser_open(r, strlen(text)));
    GR_TRY(next(r));
    GR_CHECK(r->event.type == YAML_SEQUENCE_START_EVENT, GR_ERR_CONFIG, "%s: expected [a, b, ...]", where);
    GR_TRY(read_list(r, key, where));
    GR_TRY(next(r));
    GR_TRY(next(r));
    GR_CHECK(r->event.type == YAML_STREAM_END_EVENT, GR_ERR_CONFIG, "%s: expected [a, b, ...]", where);
out:
    if (r) parser_close(r);
    gr_free(&r);
    return st;
}
