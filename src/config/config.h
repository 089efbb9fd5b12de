/** @file config.h  Typed configuration: YAML, one table (keys.def), no surprises.  [local]
 *
 *     graft-X [CONFIG.yaml] [section.key=value ...] | --help | --version | --print-config [CONFIG.yaml] [...]
 *
 * A program whose own section has a list `paths` takes plain arguments, too, which are its elements: those that do not
 * end in .yaml or .yml. CONFIG.yaml is a mapping of sections, each a mapping of keys to values. Command line wins over
 * file, file over base, base over defaults; of two equal arguments the last wins.
 *
 *     base: ../common.yaml        # optional, first: inherit from a file relative to this one, at most 8 deep
 *     run:
 *       out: ${SCRATCH}/align     # in strings ${NAME} is the environment variable NAME; $${ is a literal ${
 *     optim: {lr: 3e-4}             # inside {} and [] YAML wants quotes around ${NAME}
 *
 * Errors, all with file:line (or the argument): sections and keys that do not exist, sections the program does not
 * use, keys given twice, values of the wrong type or out of range, variables that are not set, required keys left out,
 * anchors, aliases, tags, several documents, files over 1 MiB. A file reached through `base:` may also hold sections of
 * other programs, so that all stages of a project can share one; they are checked and have no effect. Integers are
 * decimal, booleans true or false, text is UTF-8. Paths are relative to the current directory.
 */
#ifndef GR_CONFIG_CONFIG_H
#define GR_CONFIG_CONFIG_H
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_strings {
    char  **v;
    int64_t n;
} gr_strings;

/* One type per section, gr_cfg_run, gr_cfg_optim, ...: what a room takes that needs this section only. */
/* clang-format off */
#define GR_SECTION(section, doc)            typedef struct gr_cfg_##section {
#define GR_INT(section, key, ...)               int64_t     key;
#define GR_NUM(section, key, ...)               double      key;
#define GR_BOOL(section, key, ...)              bool        key;
#define GR_STR(section, key, ...)               const char *key;
#define GR_STRS(section, key, ...)              gr_strings  key;
#define GR_ENUM(section, key, ...)              const char *key;
#define GR_END(section)                     } gr_cfg_##section;
#include "config/keys.def"

/** All sections: cfg->run.out, cfg->optim.lr. Strings belong to the gr_config and are never NULL in the sections the
 * program uses; the other sections hold defaults, with NULL where a key has none. */
typedef struct gr_config {
#define GR_SECTION(section, doc)                gr_cfg_##section section;
#include "config/keys.def"
} gr_config;
/* clang-format on */

/** One line of programs.def. */
typedef struct gr_program {
    const char *name;     /**< "align"                                  */
    const char *command;  /**< "graft-align"                            */
    const char *doc;      /**< what it does, one line                   */
    const char *sections; /**< the sections it uses, separated by blanks */
} gr_program;

/** NULL when there is none of that name. Not logged. */
const gr_program *gr_program_find(const char *name);

/** The i-th of the program's keys that are called `name` ("seed"), as "train.seed"; NULL beyond the last, or when there
 * is no such program. Not logged. */
const char *gr_config_key(const char *program, const char *name, int i);

typedef enum gr_cli { GR_CLI_RUN, GR_CLI_HELP, GR_CLI_VERSION, GR_CLI_PRINT } gr_cli;

/** Parse the command line of graft-`program`. On GR_CLI_RUN and GR_CLI_PRINT *cfg is complete and checked, else NULL.
 * GR_ERR_CONFIG | GR_ERR_INPUT (a file cannot be read). Reads files and the environment: on one rank only. */
gr_status gr_config_open(gr_config **cfg, gr_cli *what, const char *program, int argc, char *const *argv);

/** The same from the n bytes of a resolved configuration, as gr_config_print made it. `name` leads the messages. */
gr_status gr_config_from_text(gr_config **cfg, const char *program, const char *name, const char *text, uint64_t n);

void gr_config_close(gr_config **cfg);

/** The resolved configuration as YAML (counted memory), commented with unit, range, default and doc: --print-config,
 * and the attribute "config" of outputs. gr_config_from_text gives the same configuration, bit for bit. */
gr_status gr_config_print(const gr_config *cfg, const char *program, char **text);

/** Are two configurations the same, but for keys that cannot change the result (GR_FREE in keys.def)? `then` is text
 * that gr_config_print made. GR_ERR_CONFIG names the first key that differs; `what`, made with `then`, leads the
 * message. */
gr_status gr_config_same(const gr_config *now, const char *program, const char *then, const char *what);

/** A key that names what a result is made from (GR_INPUT in keys.def), with its paths, which belong to the gr_config.
 */
typedef struct gr_input_key {
    const char *key; /**< "model.weights"                                                       */
    gr_strings  path;
    bool        pattern; /**< a list of files, directories and glob patterns, instead of one path   */
} gr_input_key;

enum { GR_MAX_INPUTS = 8 };

/** Those of the program's keys that are given; returns how many. */
int gr_config_inputs(const gr_config *cfg, const char *program, gr_input_key out[GR_MAX_INPUTS]);

/** --help (counted memory). */
gr_status gr_config_help(const char *program, char **text);

GR_C_END
#endif
