/** @file corpus.h  Text as it lies on disk: which files, which work units, which documents.  [local]
 *
 * All input files, in order, are one logical stream of bytes. Unit u is the bytes [u, u + 1) * unit_bytes of it, and a
 * document belongs to the unit in which its first byte lies. So the division depends on the input and on unit_bytes
 * only, never on the number of ranks.
 *
 * A document is
 *     text, file        a whole file
 *     text, line        a line, without its \n or \r\n
 *     text, paragraph   lines that are not blank (blank: spaces, tabs, \r), without the last line's \n or \r\n
 *     jsonl             the string under `field` of the object on a line; blank lines are skipped
 * Nothing else is changed: NUL bytes, inner \r\n and a byte order mark are text like any other.
 */
#ifndef GR_DATA_PIPELINE_CORPUS_H
#define GR_DATA_PIPELINE_CORPUS_H
#include "data_pipeline/buffer.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef enum gr_document { GR_DOCUMENT_FILE, GR_DOCUMENT_LINE, GR_DOCUMENT_PARAGRAPH, GR_DOCUMENT_JSONL } gr_document;

/** How input is read. */
typedef struct gr_reading {
    gr_document document;
    const char *field;           /**< of JSONL: "text"                                       */
    int64_t     unit_bytes;      /**< > 0                                                    */
    bool        replace_invalid; /**< bytes that are not UTF-8 become U+FFFD; else an error  */
} gr_reading;

/** The input files, in order. */
typedef struct gr_files {
    gr_bytes names;   /**< their paths, each followed by NUL                */
    int64_t *name_at; /**< [n] where each path begins, owned                */
    int64_t *first;   /**< [n + 1] where each file begins in the stream, owned */
    int64_t  n;
} gr_files;

/** Documents of one unit. */
typedef struct gr_documents {
    gr_bytes text; /**< all of them, end to end                          */
    int64_t *end;  /**< [n] where each ends in `text`, owned             */
    int64_t  n, cap;
    int64_t  n_empty;    /**< dropped because they held nothing             */
    int64_t  n_replaced; /**< invalid sequences replaced                    */
} gr_documents;

/** Expand files, directories (recursively, without names that begin with a dot) and globs, each in bytewise order.
 * GR_ERR_INPUT: something is missing, is no regular file, or a glob matches nothing. */
gr_status gr_files_open(gr_files *f, const char *const *inputs, int64_t n_input);
void      gr_files_close(gr_files *f);

/** As one string of bytes, to hand to other ranks; and back. */
gr_status gr_files_pack(const gr_files *f, gr_bytes *packed);
gr_status gr_files_unpack(gr_files *f, const char *packed, int64_t n);

int64_t gr_files_units(const gr_files *f, int64_t unit_bytes);

/** Read the documents of unit u, replacing what `d` held. GR_ERR_INPUT: not UTF-8 (file and byte offset), not JSON or
 * without the field (file:line), or a file that changed. */
gr_status gr_documents_read(gr_documents *d, const gr_files *f, const gr_reading *how, int64_t u);
void      gr_documents_close(gr_documents *d);

GR_C_END
#endif
