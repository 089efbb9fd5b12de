/** @file room.h  What the files of this room share, and no other room includes: the tables of keys.def and
 * programs.def, and how a value gets from text into a gr_config.
 */
#ifndef GR_CONFIG_ROOM_H
#define GR_CONFIG_ROOM_H
#include "config/config.h"
#include "util/fs.h"
#include "util/text.h"
#include <stddef.h>

enum {
    GR_WHERE_MAX = GR_PATH_MAX + 512, /**< "path:line: section.key = value" */
    GR_CLIP_MAX = 64,                 /**< of a value quoted in a message   */
    GR_CHOICES_MAX = 128,             /**< of the alternatives of a GR_ENUM */
    GR_N_KEYS = 0
#define GR_INT(...)  +1
#define GR_NUM(...)  +1
#define GR_BOOL(...) +1
#define GR_STR(...)  +1
#define GR_STRS(...) +1
#define GR_ENUM(...) +1
#include "config/keys.def"
    ,
    GR_N_SECTIONS = 0
#define GR_SECTION(...) +1
#include "config/keys.def"
};

typedef enum gr_key_type { GR_KEY_INT, GR_KEY_NUM, GR_KEY_BOOL, GR_KEY_STR, GR_KEY_STRS, GR_KEY_ENUM } gr_key_type;

/** One line of keys.def. */
typedef struct gr_key {
    const char *section, *name;
    const char *path; /**< "section.name"                                     */
    gr_key_type type;
    size_t      at;          /**< of its member in gr_config                         */
    const char *preset;      /**< the default, as a user writes it; NULL: none       */
    int64_t     low, high;   /**< GR_KEY_INT                                         */
    double      least, most; /**< GR_KEY_NUM                                         */
    const char *choices;     /**< GR_KEY_ENUM: "a|b|c"                               */
    const char *unit;        /**< never NULL                                         */
    const char *doc;
} gr_key;

typedef struct gr_section {
    const char *name, *doc;
} gr_section;

extern const gr_key     gr_keys[GR_N_KEYS];
extern const gr_section gr_sections[GR_N_SECTIONS];

/** Does the program use the section? */
bool gr_program_uses(const gr_program *program, const char *section);

/** What the command line may hold, for messages. */
const char *gr_arguments_of(const gr_program *program);

/** The section, when it exists and the program uses it (or `any` is set). GR_ERR_CONFIG otherwise: the message begins
 * with `where` and proposes what may have been meant. */
gr_status gr_section_find(const gr_section **out, const gr_program *program, bool any, const char *section,
                          const char *where);

/** The key of a section that exists. GR_ERR_CONFIG with a proposal, as above. */
gr_status gr_key_find(const gr_key **out, const gr_program *program, const char *section, const char *name,
                      const char *where);

/** Set a value from its text: type, range, ${NAME}. A GR_KEY_STRS becomes a list of one. `where` leads the message. */
gr_status gr_value_set(gr_config *cfg, const gr_key *key, const char *text, const char *where);

/** GR_KEY_STRS: empty it; add one string. */
void      gr_value_clear(gr_config *cfg, const gr_key *key);
gr_status gr_value_append(gr_config *cfg, const gr_key *key, const char *text, const char *where);

/** Copy a string with ${NAME} replaced by the environment, and $${ by ${; the result is UTF-8. */
gr_status gr_expand(char **out, const char *text, const char *where);

/** Was a key without default given? */
bool gr_value_present(const gr_config *cfg, const gr_key *key);

/** Its value in `cfg`, as YAML that gr_value_set reads back, bit for bit. */
void gr_value_print(gr_text *t, const gr_config *cfg, const gr_key *key);

/** "an integer", "a list of strings". */
const char *gr_type_name(gr_key_type type);

/** The member of cfg that a key describes. */
#define GR_MEMBER(type, cfg, key) ((type *)(void *)((char *)(cfg) + (key)->at))

/** Printable and short, for messages. */
const char *gr_clip(char dst[GR_CLIP_MAX], const char *text);

/** Apply a file, and first its bases, to cfg. */
gr_status gr_read_yaml(gr_config *cfg, const gr_program *program, const char *path);

/** Apply text in which `base` is refused. */
gr_status gr_read_yaml_text(gr_config *cfg, const gr_program *program, const char *name, const char *text, uint64_t n);

/** Apply "[a, b]" (a command line's way to write a list) to a GR_KEY_STRS. */
gr_status gr_read_yaml_list(gr_config *cfg, const gr_key *key, const char *text, const char *where);

#endif
